-- Pushing, and the heads that the library remembers, so that most pushes cost Valkey one command.
--
-- An entry belongs at the head where it is newer than the head. To ask for the head first doubles the
-- commands, and commands are what fan-out costs. So the library keeps, from one call to the next, an
-- upper bound of each window's head that it saw or pushed: a newer entry goes there unseen, by LPUSHX.
--
-- A bound is true, and so this is exact and no guess, because
--   1. only this library's functions put entries into windows. A window that goes (dropped, expired,
--      evicted) takes nothing with it that matters: LPUSHX does nothing to a list that is absent;
--   2. a rebuild, which puts a mark at the head and then many entries, forgets the bound as it
--      begins; nothing is learnt of a window while a mark stands;
--   3. heads:{sN} names the one library, in one process, whose memory holds for a shard. Whoever
--      finds another name there, or none, forgets the shard and writes a fresh name. So what was
--      remembered before a fail-over, a move of the shard, a FLUSHALL or a restart is never used.
-- Bounds are doubles. Rounding keeps order, so of two different ones the greater has the greater id.
--
-- It costs about 100 bytes of Lua's memory a window. Of a shard, between one and two times so many
-- windows are remembered; a larger table would take Lua more than a millisecond to enlarge.
local REMEMBERED = 32768
-- How many elements at a list's head are looked at where an entry seems to be late.
local NEAR = 8

local shards = {}  -- by tag: name, young and older (bounds by key), count (of the young)

-- Returns the memory of a shard. Every function that puts entries into windows begins with it.
local function recall(tag)
  local key, shard = 'heads:' .. tag, shards[tag]
  if not shard or call('GET', key) ~= shard.name then
    shard = {young = {}, older = {}, count = 0}
    local now = call('TIME')
    -- Unique: no process does this twice in a microsecond, and a table's address is random.
    shard.name = now[1] .. '.' .. now[2] .. ' ' .. tostring(shard)
    call('SET', key, shard.name)
    shards[tag] = shard
  end
  return shard
end

local function remember(shard, key, bound)
  if not shard.young[key] then
    if shard.count == REMEMBERED then
      shard.young, shard.older, shard.count = {}, shard.young, 0
    end
    shard.count = shard.count + 1
  end
  shard.young[key] = bound
end

local function forget(shard, key)
  shard.young[key], shard.older[key] = nil, nil
end

local function push_seen(shard, key, entry, hi, lo, length, first)
  local head = first[1]
  if not head then return 0, 1 end
  local hhi, hlo = unpack_id('>I4I4', head)
  if hhi < hi or (hhi == hi and hlo < lo) then
    remember(shard, key, hi * WORD + lo)
    trim(key, call('LPUSH', key, entry), length)
    return 1, 1
  end
  if hhi ~= MARK then remember(shard, key, hhi * WORD + hlo) end
  return insert_late(key, entry, hi, lo, length, hhi == MARK, first)
end

-- Inserts an entry in its place in a window that exists. Returns 1 where it was not there, and what
-- it cost: 1 is about 2 us, an entry put at the head.
local function push(shard, key, entry, hi, lo, length)
  local id = hi * WORD + lo
  local bound = shard.young[key] or shard.older[key]
  if bound and bound < id then
    -- First the bound, then the entry: a command may raise.
    remember(shard, key, id)
    local n = call('LPUSHX', key, entry)
    trim(key, n, length)
    return n == 0 and 0 or 1, 1
  end
  return push_seen(shard, key, entry, hi, lo, length,
    call('LRANGE', key, 0, bound and NEAR - 1 or 0))
end
