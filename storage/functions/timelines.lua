#!lua name=chirp_timelines
-- Windows: sorted lists of timeline entries, in Valkey. One library for one shard's data; its second
-- part, fan-out, stands in followers.lua and is loaded together with this one.
--
-- Keys, all of one shard {sN}:
--   timeline:{sN}:<viewer>    window: the viewer's home timeline, candidates before the rules
--   recent:{sN}:<author>      window: the author's pulled tweets
--   follower_ids:{sN}:<author> string of numbers of 8 bytes, little-endian: 0, then the followers of
--                             this shard; one who went comes again, negative: the last counts
--   viewer:{sN}:<viewer>      string: a token; what was read after it was set holds while it stands
--   fence:{sN}:<partition>    string: the greatest fence seen from an owner of that log partition
--
-- A window is a list, newest first, of 32-byte entries: tweet id, author, original (0 where it is
-- no retweet), author of the original or replied to (0 where there is none); each 8 bytes,
-- big-endian. It is either absent or it holds every entry above its last one: its floor. Two
-- elements are marks, told by their id:
--   id 0, at the tail:    the window reaches down to the beginning of time
--   id 2^64-1, at the head: the window is being rebuilt; the rest of the mark says by whom. What is
--                         pushed meanwhile waits behind it and is merged when the rebuild commits.
-- A read lets a timeline live on for all of its days (at most every ten minutes), so the time that
-- it has left says when it was last read: its lease.
-- Ids are compared as two numbers of 32 bits: Lua compares strings by the server's locale.

local MARK = 4294967295
-- How many entries of a window Valkey compares in the time that a push to its head takes.
local ENTRIES_A_UNIT = 100
local COMPLETE, call, unpack_id

-- Valkey lends its libraries to a function when it runs, not when it is loaded.
local function ready(run)
  return function(keys, argv)
    if not unpack_id then
      COMPLETE, call, unpack_id = string.rep('\0', 32), server.call, struct.unpack
    end
    return run(keys, argv)
  end
end

-- Trimming on every push would double its cost, so windows run over by a tenth.
local function trim(key, n, length)
  if 10 * n > 11 * length then
    call('LTRIM', key, 0, length - 1)
  end
end

-- Inserts an entry that is not newer than the head: late, repeated, or into a window being rebuilt.
-- Looks for its place in steps that double from the head, where late entries mostly belong, then
-- halve. Returns as `push` does.
local function insert_late(key, entry, hi, lo, length, building)
  local newer, older, pivot, step, probes = -1, call('LLEN', key), nil, 1, 0
  while older - newer > 1 do
    local middle = math.min(newer + step, math.floor((newer + older) / 2))
    local element = call('LINDEX', key, middle)
    local ehi, elo = unpack_id('>I4I4', element)
    probes, step = probes + 1, step * 2
    if ehi == hi and elo == lo then return 0, 1 + probes end
    if ehi > hi or (ehi == hi and elo > lo) then
      newer = middle
    else
      older, pivot = middle, element
    end
  end
  local cost = 2 + probes + math.floor(older / ENTRIES_A_UNIT)
  if pivot then
    -- Behind a mark one entry more than a window is kept: so nothing that was trimmed belongs into
    -- the window, and a rebuild sees that there was more.
    trim(key, call('LINSERT', key, 'BEFORE', pivot, entry), building and length + 2 or length)
    return 1, cost
  end
  -- Older than all: below the floor of a built window, but one being rebuilt takes everything.
  if not building then return 0, cost end
  call('RPUSH', key, entry)
  return 1, cost
end

-- Inserts an entry in its place in a window that exists. Returns 1 where it was not there, and what
-- it cost: 1 is about 2 us, an entry put at the head.
local function push(key, entry, hi, lo, length)
  local head = call('LINDEX', key, 0)
  if not head then return 0, 1 end
  local hhi, hlo = unpack_id('>I4I4', head)
  if hhi < hi or (hhi == hi and hlo < lo) then
    trim(key, call('LPUSH', key, entry), length)
    return 1, 1
  end
  -- It is there: mostly an author's own entry, which tweet_server put there.
  if hhi == hi and hlo == lo then return 0, 1 end
  return insert_late(key, entry, hi, lo, length, hhi == MARK)
end

-- Removes an entry. A rebuild that runs may have read it before it was deleted: it starts over.
-- Returns as `push` does.
local function remove(key, entry)
  local head = call('LINDEX', key, 0)
  if not head then return 0, 1 end
  if unpack_id('>I4', head) == MARK then
    call('DEL', key)
    return 0, 1
  end
  return call('LREM', key, 1, entry), 1 + math.floor(call('LLEN', key) / ENTRIES_A_UNIT)
end

-- push_own: puts an author's new entry into the own window, outside the event log's order.
-- KEYS 1 window   ARGV 1 entry, 2 length   Returns 1 where it was inserted.
local function push_own(keys, argv)
  local hi, lo = unpack_id('>I4I4', argv[1])
  return (push(keys[1], argv[1], hi, lo, tonumber(argv[2])))
end

-- remove_own: takes an author's entry out of the own window.  KEYS 1 window   ARGV 1 entry
local function remove_own(keys, argv)
  return (remove(keys[1], argv[1]))
end

-- begin_rebuild: marks an absent window as being rebuilt.
-- KEYS 1 window, and of a viewer: 2 token
-- ARGV 1 mark (32 bytes: 2^64-1, then a token), 2 seconds the mark lives, and of a viewer: 3 the
-- token under which the relations were read
-- Returns 'begun', 'built' (there is one), 'busy' (somebody else rebuilds it), or 'changed' (the
-- relations that the snapshot would be read with are not the viewer's any more: the drop that came
-- with the change is past, so nothing else would undo a window made from them).
local function begin_rebuild(keys, argv)
  if keys[2] and call('GET', keys[2]) ~= argv[3] then return 'changed' end
  local head = call('LINDEX', keys[1], 0)
  if head then
    return unpack_id('>I4', head) == MARK and 'busy' or 'built'
  end
  call('RPUSH', keys[1], argv[1])
  call('EXPIRE', keys[1], argv[2])
  return 'begun'
end

-- commit_rebuild: replaces the mark by a snapshot merged with what was pushed since.
-- KEYS 1 window   ARGV 1 mark, 2 window length, 3 seconds the window lives, 4 '1' where the
-- snapshot reaches down to the beginning, then its entries, newest first, at most length of them
-- Returns 1, or 0 where the mark is gone: dropped, lost, or taken by another.
local function commit_rebuild(keys, argv)
  local pushed = call('LRANGE', keys[1], 0, -1)
  if pushed[1] ~= argv[1] then return 0 end
  local length = tonumber(argv[2])
  local merged, p, s = {}, 2, 5
  while #merged < length and (pushed[p] or argv[s]) do
    local a, b = pushed[p], argv[s]
    if a and b then
      local ahi, alo = unpack_id('>I4I4', a)
      local bhi, blo = unpack_id('>I4I4', b)
      if ahi == bhi and alo == blo then
        p = p + 1
      elseif ahi > bhi or (ahi == bhi and alo > blo) then
        merged[#merged + 1] = a
        p = p + 1
      else
        merged[#merged + 1] = b
        s = s + 1
      end
    elseif a then
      -- Older than a snapshot that does not reach the beginning: below the floor.
      if argv[4] == '1' then merged[#merged + 1] = a end
      p = p + 1
    else
      merged[#merged + 1] = b
      s = s + 1
    end
  end
  if argv[4] == '1' and not pushed[p] and not argv[s] then
    merged[#merged + 1] = COMPLETE
  end
  call('DEL', keys[1])
  for i = 1, #merged, 1000 do
    call('RPUSH', keys[1], unpack(merged, i, math.min(i + 999, #merged)))
  end
  if #merged > 0 then call('EXPIRE', keys[1], argv[3]) end
  return 1
end

-- abandon_rebuild: takes the mark of a rebuild away that will not be committed, and what waits
-- behind it.   KEYS 1 window   ARGV 1 mark   Returns 1, or 0 where the mark is gone.
local function abandon_rebuild(keys, argv)
  if call('LINDEX', keys[1], 0) ~= argv[1] then return 0 end
  call('DEL', keys[1])
  return 1
end

-- A function whose arguments change gets another name: it is loaded where only an older release's is.
server.register_function('chirp_push_own', ready(push_own))
server.register_function('chirp_remove_own', ready(remove_own))
server.register_function('chirp_begin_rebuild_v2', ready(begin_rebuild))
server.register_function('chirp_commit_rebuild', ready(commit_rebuild))
server.register_function('chirp_abandon_rebuild', ready(abandon_rebuild))
