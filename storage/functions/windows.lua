#!lua name=chirp_timelines
-- Windows: sorted lists of timeline entries, in Valkey. One library for one shard's data, in four
-- parts that are loaded as one, in this order: windows.lua, heads.lua, timelines.lua, followers.lua.
--
-- Keys, all of one shard {sN}:
--   timeline:{sN}:<viewer>    window: the viewer's home timeline, candidates before the rules
--   recent:{sN}:<author>      window: the author's pulled tweets
--   followers:{sN}:<author>   list: '*<generation>', then the author's followers of this shard
--   lease:{sN}:<viewer>       string: the viewer read within the last hour
--   viewer:{sN}:<viewer>      string: a token; what was read after it was set holds while it stands
--   fence:{sN}:<partition>    string: the greatest fence seen from an owner of that log partition
--   heads:{sN}                string: whose memory of the windows' heads holds, see heads.lua
--
-- A window is a list, newest first, of 32-byte entries: tweet id, author, original (0 where it is
-- no retweet), author of the original or replied to (0 where there is none); each 8 bytes,
-- big-endian. It is either absent or it holds every entry above its last one: its floor. Two
-- elements are marks, told by their id:
--   id 0, at the tail:    the window reaches down to the beginning of time
--   id 2^64-1, at the head: the window is being rebuilt; the rest of the mark says by whom. What is
--                         pushed meanwhile waits behind it and is merged when the rebuild commits.
-- Ids are compared as two numbers of 32 bits: Lua compares strings by the server's locale.

local MARK = 4294967295
local WORD = 4294967296
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
  if n > length + math.floor(length / 10) then
    call('LTRIM', key, 0, length - 1)
  end
end

-- Returns 1 where an element is newer than an id, 0 where it has it, -1 where it is older.
local function compare(element, hi, lo)
  local ehi, elo = unpack_id('>I4I4', element)
  if ehi == hi and elo == lo then return 0 end
  return (ehi > hi or (ehi == hi and elo > lo)) and 1 or -1
end

-- Inserts an entry that is not newer than the head: late, repeated, or into a window being rebuilt.
-- `first` holds the list's first elements. Looks for the place among them, where late entries mostly
-- belong, then behind them in steps that double, then halve. Returns as `push` does.
local function insert_late(key, entry, hi, lo, length, building, first)
  local newer, pivot, cost = -1, nil, 2
  for i = 1, #first do
    local order = compare(first[i], hi, lo)
    if order == 0 then return 0, cost end
    if order < 0 then
      pivot = first[i]
      break
    end
    newer = i - 1
  end
  if not pivot then
    local older, step = call('LLEN', key), 1
    while older - newer > 1 do
      local middle = math.min(newer + step, math.floor((newer + older) / 2))
      local element = call('LINDEX', key, middle)
      local order = compare(element, hi, lo)
      cost, step = cost + 1, step * 2
      if order == 0 then return 0, cost end
      if order > 0 then
        newer = middle
      else
        older, pivot = middle, element
      end
    end
    cost = cost + math.floor(older / ENTRIES_A_UNIT)
  end
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
