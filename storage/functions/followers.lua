-- Fan-out into the windows of followers: the last part of the library; windows.lua says what the
-- keys hold, heads.lua brings `push`, timelines.lua `remove`.

-- How far from its end a follower list is searched before a follower is appended: a repeated event
-- is a recent one, and a follower who stands twice is served twice, which changes nothing.
local REPLAYED = 2000
-- How many followers of a list Valkey compares in the time of one delivery; it keeps them as numbers.
local FOLLOWERS_A_UNIT = 150

local FENCED = 'FENCED a newer owner of a partition was here'

-- Whether no newer owner was here, of any of these partitions. The fences are as many as the keys.
local function fenced(keys, count, fences)
  local seen = call('MGET', unpack(keys, 1, count))
  for i = 1, count do
    if seen[i] and tonumber(seen[i]) > tonumber(fences[i]) then return false end
  end
  for i = 1, count do
    if seen[i] ~= fences[i] then call('SET', keys[i], fences[i]) end
  end
  return true
end

-- fanout: applies a batch of changes of some log partitions to one shard.
-- KEYS fence:{sN}:<partition>, of each partition
-- ARGV a fence for each of them, then what is counted from here on:
--      1 '{sN}', 2 window length, 3 what this call may cost, in deliveries to the head of
--      a window; 4 the part of it for one tweet before it is the next one's turn; then for each
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
-- change of another kind. Raises FENCED where a newer owner of one of the partitions was here.
local function fanout(keys, argv)
  local base = #keys
  if not fenced(keys, base, argv) then return server.error_reply(FENCED) end
  local tag, length = argv[base + 1], tonumber(argv[base + 2])
  local whole, chunk = tonumber(argv[base + 3]), tonumber(argv[base + 4])
  local shard = recall(tag)
  local budget = whole
  local timeline, followers_of = 'timeline:' .. tag .. ':', 'followers:' .. tag .. ':'
  local lease = 'lease:' .. tag .. ':'
  local inserted, waiting, replies = 0, {}, {}

  local function push_active(viewer, entry, hi, lo)
    local window = timeline .. viewer
    if call('EXISTS', window) == 0 then return 0, 1 end
    if call('EXISTS', lease .. viewer) == 1 then return push(shard, window, entry, hi, lo, length) end
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
        count, cost = push(shard, timeline .. members[i], entry, hi, lo, length)
      elseif op == 'push_active' then
        count, cost = push_active(members[i], entry, hi, lo)
      else
        count, cost = remove(timeline .. members[i], entry)
      end
      inserted, left, i = inserted + count, left - cost, i + 1
    end
    budget = budget - math.max(1, turn - left)
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
      count, cost = push(shard, window .. author, entry, hi, lo, length)
    else
      count, cost = remove(window .. author, entry)
    end
    inserted, budget = inserted + count, budget - cost
    return 'done'
  end

  for i = base + 5, #argv, 4 do
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
-- KEYS fences as above, then followers:{sN}:<author>   ARGV the fences, then: 1 '1' where this is
-- the last part, 2 '1' where it is the first, 3 generation, then followers
local function load_followers(keys, argv)
  local base = #keys - 1
  if not fenced(keys, base, argv) then return server.error_reply(FENCED) end
  local list = keys[#keys]
  local making = list .. ':making'
  if argv[base + 2] == '1' then
    call('DEL', making)
    call('RPUSH', making, '*' .. argv[base + 3])
  end
  for i = base + 4, #argv, 1000 do
    call('RPUSH', making, unpack(argv, i, math.min(i + 999, #argv)))
  end
  if argv[base + 1] == '1' then
    call('RENAME', making, list)
  else
    call('EXPIRE', making, 60)
  end
  return 1
end

server.register_function('chirp_fanout', ready(fanout))
server.register_function('chirp_load_followers', ready(load_followers))
