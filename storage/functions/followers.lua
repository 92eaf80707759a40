-- Fan-out into the windows of followers: the second part of the library of timelines.lua, which says
-- what the keys hold and brings `push` and `remove`.

-- How far from its end a follower list is searched before a follower is appended: a repeated event
-- is a recent one, and a follower who stands twice is served twice, which changes nothing.
local REPLAYED = 2000
-- How many followers of a list Valkey compares in the time of one delivery; it keeps them as numbers.
local FOLLOWERS_A_UNIT = 150

local function fenced(key, fence)
  local seen = call('GET', key)
  if seen and tonumber(seen) > fence then return false end
  if not seen or tonumber(seen) < fence then
    call('SET', key, string.format('%.0f', fence))
  end
  return true
end

-- fanout: applies a batch of changes of one log partition to one shard.
-- KEYS 1 fence:{sN}:<partition>
-- ARGV 1 fence, 2 '{sN}', 3 window length, 4 what this call may cost, in deliveries to the head of
--      a window; 5 the part of it for one tweet before it is the next one's turn; then for each
--      change: op, author, argument, progress
--   op 'push':     argument = entry, to every follower's timeline that exists
--   op 'push_active': argument = entry, to every follower's timeline that exists and whose reader
--                  has a lease; one without is dropped, because it would miss the entry
--   op 'remove':   argument = entry, from every follower's timeline that exists
--   op 'follow':   argument = follower: into the follower list where it exists, timeline dropped
--   op 'unfollow': argument = follower, likewise
--   op 'timeline', 'untimeline', 'recent', 'unrecent': argument = entry, into or out of the one
--                  window of the author
-- progress is '' or what an earlier call returned for this change.
-- Returns {inserted, progress of each change}; progress is 'done', 'missing' (no follower list:
-- load it and call again), '' (not begun), or '<offset> <generation>' (call again with it).
-- Changes of one author are applied in the order given: behind one that is not done, its later
-- ones wait. What a call does at least, also where it costs more than it may: one delivery, or one
-- change of another kind. Raises FENCED where a newer owner of the partition was here.
local function fanout(keys, argv)
  local fence = tonumber(argv[1])
  if not fenced(keys[1], fence) then
    return server.error_reply('FENCED a newer owner of this partition was here')
  end
  local tag, length = argv[2], tonumber(argv[3])
  local whole, chunk = tonumber(argv[4]), tonumber(argv[5])
  local budget = whole
  local timeline, followers_of = 'timeline:' .. tag .. ':', 'followers:' .. tag .. ':'
  local lease = 'lease:' .. tag .. ':'
  local inserted, waiting, replies = 0, {}, {}

  local function push_active(viewer, entry, hi, lo)
    local window = timeline .. viewer
    if call('EXISTS', window) == 0 then return 0, 1 end
    if call('EXISTS', lease .. viewer) == 1 then return push(window, entry, hi, lo, length) end
    call('DEL', window)
    return 0, 2
  end

  local function deliver(op, author, entry, progress)
    local key = followers_of .. author
    local offset, generation = 1, nil
    if progress ~= '' then
      local cut = string.find(progress, ' ', 1, true)
      offset = tonumber(string.sub(progress, 1, cut - 1))
      generation = string.sub(progress, cut + 1)
      if call('LINDEX', key, 0) ~= generation then offset, generation = 1, nil end
    end
    local turn = math.min(chunk, budget)
    local members = call('LRANGE', key, generation and offset or 0, offset + turn - 1)
    local first = 1
    if not generation then
      if #members == 0 then return 'missing' end
      generation = members[1]
      first = 2
    end
    local hi, lo = unpack_id('>I4I4', entry)
    local left, i = turn, first
    while left > 0 and i <= #members do
      local count, cost
      if op == 'push' then
        count, cost = push(timeline .. members[i], entry, hi, lo, length)
      elseif op == 'push_active' then
        count, cost = push_active(members[i], entry, hi, lo)
      else
        count, cost = remove(timeline .. members[i], entry)
      end
      inserted, left, i = inserted + count, left - cost, i + 1
    end
    budget = budget - (turn - left)
    if i > #members and #members - first + 1 < turn then return 'done' end
    return string.format('%.0f %s', offset + i - first, generation)
  end

  -- Comparing a whole follower list cannot be parted: it waits for a call that it has for itself.
  local function change_follow(op, author, argument)
    local key = followers_of .. author
    local compared = call('LLEN', key)
    if op == 'follow' then compared = math.min(compared, REPLAYED) end
    local cost = 1 + math.ceil(compared / FOLLOWERS_A_UNIT)
    if cost > budget and budget < whole then return '' end
    budget = budget - cost
    if op == 'unfollow' then
      call('LREM', key, 0, argument)
    elseif compared > 0 and not call('LPOS', key, argument, 'RANK', -1, 'MAXLEN', REPLAYED) then
      call('RPUSH', key, argument)
    end
    call('DEL', timeline .. argument, 'viewer:' .. tag .. ':' .. argument)
    return 'done'
  end

  local function change_own(op, author, entry)
    local hi, lo = unpack_id('>I4I4', entry)
    local window = (op == 'timeline' or op == 'untimeline') and timeline or 'recent:' .. tag .. ':'
    local count, cost
    if op == 'timeline' or op == 'recent' then
      count, cost = push(window .. author, entry, hi, lo, length)
    else
      count, cost = remove(window .. author, entry)
    end
    inserted, budget = inserted + count, budget - cost
    return 'done'
  end

  for i = 6, #argv, 4 do
    local op, author, argument, progress = argv[i], argv[i + 1], argv[i + 2], argv[i + 3]
    local reply = progress
    if not waiting[author] and budget > 0 then
      if op == 'push' or op == 'push_active' or op == 'remove' then
        reply = deliver(op, author, argument, progress)
      elseif op == 'follow' or op == 'unfollow' then
        reply = change_follow(op, author, argument)
      else
        reply = change_own(op, author, argument)
      end
    end
    if reply ~= 'done' then waiting[author] = true end
    replies[#replies + 1] = reply
  end
  return {inserted, replies}
end

-- load_followers: appends to a follower list that is being made beside the one in use.
-- KEYS 1 fence, 2 followers:{sN}:<author>   ARGV 1 fence, 2 '1' where this is the last part,
-- 3 '1' where it is the first, 4 generation, then followers
local function load_followers(keys, argv)
  if not fenced(keys[1], tonumber(argv[1])) then
    return server.error_reply('FENCED a newer owner of this partition was here')
  end
  local making = keys[2] .. ':making'
  if argv[3] == '1' then
    call('DEL', making)
    call('RPUSH', making, '*' .. argv[4])
  end
  for i = 5, #argv, 1000 do
    call('RPUSH', making, unpack(argv, i, math.min(i + 999, #argv)))
  end
  if argv[2] == '1' then
    call('RENAME', making, keys[2])
  else
    call('EXPIRE', making, 60)
  end
  return 1
end

server.register_function('chirp_fanout', ready(fanout))
server.register_function('chirp_load_followers', ready(load_followers))
