-- Gathering: many entries for one window leave in one command.
--
-- A command costs about as much for five entries as for one, and who follows many gets many tweets of
-- a batch. So fan-out goes over the follower lists first and notes in Lua what goes to whom, and then
-- pours: all that waits for a window by one LPUSHX. By followers, a batch of 512 tweets has 2.5 entries
-- for each window, one of 2,048 has 7; evenly 1.2 and 1.8.
--
-- What is gathered is kept from call to call in a session, that a caller begins by step 0. A step that
-- is not the next one finds its session lost (the library was loaded anew, or another server answers):
-- the caller begins again. Nothing was promised by then, and what was poured is poured twice unharmed.
local ABANDONED_S = 120
-- Members of follower lists that are gathered in the time of one delivery.
local GATHERED_A_UNIT = 5
-- Entries in one command, and how many more of them take as long as one in a command of its own.
local POURED, POURED_A_UNIT = 500, 8

local sessions = {}  -- by name

-- Returns the session, or nil where it is lost.
local function open_session(name, step)
  if step > 0 then
    local session = sessions[name]
    return session and session.step == step and session or nil
  end
  local now = tonumber(call('TIME')[1])
  for other, session in pairs(sessions) do
    if now - session.began > ABANDONED_S then sessions[other] = nil end
  end
  sessions[name] = {
    began = now, step = 0, gathered = 0,
    viewers = {}, count = 0, poured = 0,  -- in the order in which they are served
    single = {}, many = {},               -- by viewer: the first tweet, or all where there are more
  }
  return sessions[name]
end

-- Ends a call: returns how much was gathered, 0 where nothing waits any more.
local function close_session(name, session)
  if session.poured == session.count then
    sessions[name] = nil
    return 0
  end
  session.step = session.step + 1
  return session.gathered
end

local function gather(session, tweet, members, first, last)
  local single, many, viewers, count = session.single, session.many, session.viewers, session.count
  for i = first, last do
    local viewer = members[i]
    local more = many[viewer]
    if more then
      more[#more + 1] = tweet
    elseif single[viewer] then
      many[viewer] = {single[viewer], tweet}
    else
      single[viewer], count = tweet, count + 1
      viewers[count] = viewer
    end
  end
  session.count, session.gathered = count, session.gathered + last - first + 1
end

local function is_older(a, b)
  return a.hi < b.hi or (a.hi == b.hi and a.lo < b.lo)
end

-- Inserts tweets, older ones first. Returns as `push` does.
local function push_all(shard, key, tweets, length)
  for i = 2, #tweets do
    if is_older(tweets[i], tweets[i - 1]) then
      table.sort(tweets, is_older)
      break
    end
  end
  local inserted, cost, i = 0, 0, 1
  while i <= #tweets do
    local tweet = tweets[i]
    local bound, entries = shard.young[key] or shard.older[key], {tweet.entry}
    if bound and bound < tweet.id then
      while i < #tweets and #entries < POURED and tweets[i + 1].id > tweets[i].id do
        i = i + 1
        entries[#entries + 1] = tweets[i].entry
      end
    end
    local count, took
    if #entries > 1 then
      remember(shard, key, tweets[i].id)
      local n = call('LPUSHX', key, unpack(entries))
      trim(key, n, length)
      count, took = n == 0 and 0 or #entries, 1 + #entries / POURED_A_UNIT
    else
      count, took = push(shard, key, tweet.entry, tweet.hi, tweet.lo, length)
    end
    inserted, cost, i = inserted + count, cost + took, i + 1
    -- Nothing inserted at the least cost: there is no window.
    if count == 0 and took == 1 then break end
  end
  return inserted, cost
end

-- Delivers what waits, as far as the budget goes, but to one viewer at least. Returns the number of
-- entries that were inserted, and what that cost.
local function pour(session, shard, timeline, length, budget)
  local inserted, spent = 0, 0
  while spent < budget and session.poured < session.count do
    session.poured = session.poured + 1
    local viewer = session.viewers[session.poured]
    local tweets, tweet = session.many[viewer], session.single[viewer]
    local count, cost
    if tweets then
      count, cost = push_all(shard, timeline .. viewer, tweets, length)
    else
      count, cost = push(shard, timeline .. viewer, tweet.entry, tweet.hi, tweet.lo, length)
    end
    inserted, spent = inserted + count, spent + cost
  end
  return inserted, spent
end
