-- Fan-out into the windows of followers: the second part of the library of timelines.lua, which says
-- what the keys hold and brings `push` and `remove`. Who gets what is decided by storage/followers.py,
-- which gathers all that a batch has for one window: a window costs Valkey the same few misses of the
-- processor's caches whether one entry comes or several.

local FENCED = 'FENCED a newer owner of a partition was here'
-- What one more entry for a window costs, in units of `push`, where it goes to the head with others.
local ONE_MORE = 0.25
-- After how many seconds of Valkey's CPU a call ends, whatever is left of its budget: costs are a
-- guess, and where memory is slow 200 windows took 2.7 ms. It looks at the clock after so many.
local HELD_MOST_S = 0.0012
local WINDOWS_A_LOOK = 32
-- Entries put by one command: Lua's stack has room for some thousands.
local TOGETHER = 100
-- How far from its end a follower list is searched before a follower is appended: a repeated event
-- is a recent one, and a follower who stands twice is served once.
local REPLAYED_BYTES = 8 * 2000

-- Whether no newer owner was here, of any of these partitions. The fences are as many as the keys.
local function fenced(keys, count, fences)
  local seen = call('MGET', unpack(keys, 1, count))
  for i = 1, count do
    -- Mostly the same: then no text is made a number, which is slow.
    if seen[i] and seen[i] ~= fences[i] and tonumber(seen[i]) > tonumber(fences[i]) then
      return false
    end
  end
  for i = 1, count do
    if seen[i] ~= fences[i] then call('SET', keys[i], fences[i]) end
  end
  return true
end

-- Whether a follower list, or its end, has a number.
local function stands(numbers, number)
  local from = 1
  while true do
    local found = string.find(numbers, number, from, true)
    if not found or found % 8 == 1 then return found end
    from = found + 1
  end
end

local function nth(entries, number)
  return string.sub(entries, 32 * number - 31, 32 * number)
end

-- These three take entries in or out of one window, the oldest first, as many as the budget lets
-- them, and at least one. They return how many it had not or had, how many are done with, and the
-- cost.

-- A window that has less than so many seconds left to live is dropped instead; a mark never is.
local function push_all(key, entries, length, budget, least_s)
  local count, head = #entries / 32, call('LINDEX', key, 0)
  if not head then return 0, count, 1 end
  local hhi, hlo = unpack_id('>I4I4', head)
  if least_s > 0 and hhi ~= MARK and call('TTL', key) < least_s then
    call('DEL', key)
    return 0, count, 2
  end
  local hi, lo = unpack_id('>I4I4', entries)
  if hhi < hi or (hhi == hi and hlo < lo) then
    if count == 1 then
      trim(key, call('LPUSH', key, entries), length)
      return 1, 1, 1
    end
    for first = 1, count, TOGETHER do
      local parts = {}
      for i = first, math.min(count, first + TOGETHER - 1) do parts[#parts + 1] = nth(entries, i) end
      trim(key, call('LPUSH', key, unpack(parts)), length)
    end
    return count, count, 1 + ONE_MORE * (count - 1)
  end
  local inserted, done, spent = 0, 0, 0
  repeat
    local entry = nth(entries, done + 1)
    hi, lo = unpack_id('>I4I4', entry)
    local was_new, cost = push(key, entry, hi, lo, length)
    inserted, done, spent = inserted + was_new, done + 1, spent + cost
  until done == count or spent >= budget
  return inserted, done, spent
end

local function remove_all(key, entries, _, budget)
  local count, removed, done, spent = #entries / 32, 0, 0, 0
  repeat
    local was_there, cost = remove(key, nth(entries, done + 1))
    removed, done, spent = removed + was_there, done + 1, spent + cost
  until done == count or spent >= budget
  return removed, done, spent
end

-- deliver: puts entries into windows of one shard, or takes them out.
-- KEYS fence:{sN}:<partition>, of each log partition that they come from
-- ARGV a fence for each of them, then what is counted from here on:
--      1 'push':   into each of these windows that exists
--        'remove': out of each of these windows that exists
--      2 window length, 3 what this call may cost, in deliveries to the head of a window, 4 how many
--      seconds a window must have left to be pushed into: one that has less is dropped; then for each
--      window: its key, and its entries in one string, the oldest first
-- Returns {inserted or removed, done}: so many of the entries, in the order given, are done with; the
-- others wait for another call, because of the cost or of the time. At least one is done. Raises
-- FENCED where a newer owner of one of the partitions was here.
local function deliver(keys, argv)
  local base = #keys
  if not fenced(keys, base, argv) then return server.error_reply(FENCED) end
  local length, budget = tonumber(argv[base + 2]), tonumber(argv[base + 3])
  local least_s = tonumber(argv[base + 4])
  local apply = argv[base + 1] == 'push' and push_all or remove_all
  local changed, done = 0, 0
  local look_at, until_s = base + 5 + 2 * WINDOWS_A_LOOK, os.clock() + HELD_MOST_S
  for i = base + 5, #argv, 2 do
    if i == look_at then
      if os.clock() > until_s then break end
      look_at = i + 2 * WINDOWS_A_LOOK
    end
    local entries = argv[i + 1]
    local count, taken, cost = apply(argv[i], entries, length, budget, least_s)
    changed, done, budget = changed + count, done + taken, budget - cost
    if budget <= 0 or taken < #entries / 32 then break end
  end
  return {changed, done}
end

-- change_followers: appends to the follower lists that exist, and drops the timelines of those who
-- came or went.
-- KEYS as of `deliver`
-- ARGV fences, then counted from here on: 1 '{sN}'; then for each change: author, follower, follower
-- in 8 bytes, the same negative, '1' where the follower came and '0' where it went
local function change_followers(keys, argv)
  local base = #keys
  if not fenced(keys, base, argv) then return server.error_reply(FENCED) end
  local tag = argv[base + 1]
  for i = base + 2, #argv, 5 do
    local key, follower = 'follower_ids:' .. tag .. ':' .. argv[i], argv[i + 1]
    local came, went = argv[i + 2], argv[i + 3]
    if argv[i + 4] == '0' then came, went = went, came end
    local tail = call('GETRANGE', key, -REPLAYED_BYTES, -1)
    if tail ~= '' and not (stands(tail, came) and not stands(tail, went)) then
      call('APPEND', key, came)
    end
    call('DEL', 'timeline:' .. tag .. ':' .. follower, 'viewer:' .. tag .. ':' .. follower)
  end
  return 1
end

-- follower_sizes: returns how many bytes the follower lists of some authors have, 0 where one is not
-- there.   KEYS follower_ids:{sN}:<author>, each
local function follower_sizes(keys)
  local sizes = {}
  for i = 1, #keys do sizes[i] = call('STRLEN', keys[i]) end
  return sizes
end

-- follower_parts: returns follower lists, one after the other, until they have so many bytes.
-- KEYS follower_ids:{sN}:<author>, each   ARGV 1 bytes, 2 where in the first list to begin
-- Returns {lists, '1' where the last one lacks its end}: fewer than were asked for where there is no
-- more room; '' where a list is not there.
local function follower_parts(keys, argv)
  local left, begin, parts, cut = tonumber(argv[1]), tonumber(argv[2]), {}, '0'
  for i = 1, #keys do
    parts[i] = call('GETRANGE', keys[i], begin, begin + left - 1)
    left = left - #parts[i]
    if left <= 0 then
      if call('STRLEN', keys[i]) > begin + #parts[i] then cut = '1' end
      break
    end
    begin = 0
  end
  return {parts, cut}
end

-- load_followers: appends to a follower list that is being made beside the one in use.
-- KEYS the fences', then follower_ids:{sN}:<author>   ARGV the fences, then: 1 '1' where this is the
-- last part, 2 '1' where it is the first, 3 the part   Returns 0 where earlier parts are lost.
local function load_followers(keys, argv)
  local base = #keys - 1
  if not fenced(keys, base, argv) then return server.error_reply(FENCED) end
  local list = keys[#keys]
  local making = list .. ':making'
  if argv[base + 2] == '1' then
    call('SET', making, argv[base + 3])
  elseif call('EXISTS', making) == 1 then
    call('APPEND', making, argv[base + 3])
  else
    return 0
  end
  if argv[base + 1] == '1' then
    call('RENAME', making, list)
  else
    call('EXPIRE', making, 60)
  end
  return 1
end

server.register_function('chirp_deliver_v2', ready(deliver))
server.register_function('chirp_change_followers', ready(change_followers))
server.register_function('chirp_follower_sizes', ready(follower_sizes))
server.register_function('chirp_follower_parts', ready(follower_parts))
server.register_function('chirp_load_followers', ready(load_followers))
