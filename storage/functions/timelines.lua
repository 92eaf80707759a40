#!lua name=chirp_timelines
-- Windows: sorted lists of timeline entries, in Valkey. One library for one shard's data.
--
-- Keys, all of one shard {sN}:
--   timeline:{sN}:<viewer>    window: the viewer's home timeline, candidates before the rules
--   recent:{sN}:<author>      window: the author's pulled tweets
--   followers:{sN}:<author>   list: '*<generation>', then the author's followers of this shard
--   lease:{sN}:<viewer>       string: the viewer read within the last hour
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
-- Ids are compared as two numbers of 32 bits: Lua compares strings by the server's locale.

local MARK = 4294967295
-- How far from its end a follower list is searched before a follower is appended: a repeated event
-- is a recent one, and a follower who stands twice is served twice, which changes nothing.
local REPLAYED = 2000
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

-- Inserts an entry that is not newer than the head: late, repeated, or into a window being rebuilt.
local function insert_late(key, entry, hi, lo, length)
  local from, step, building = 0, 16, false
  while true do
    local elements = call('LRANGE', key, from, from + step - 1)
    for _, element in ipairs(elements) do
      local ehi, elo = unpack_id('>I4I4', element)
      if ehi == hi and elo == lo then return 0 end
      if ehi < hi or (ehi == hi and elo < lo) then
        -- Behind a mark one entry more than a window is kept: so nothing that was trimmed belongs
        -- into the window, and a rebuild sees that there was more.
        trim(key, call('LINSERT', key, 'BEFORE', element, entry), building and length + 2 or length)
        return 1
      end
      if ehi == MARK then building = true end
    end
    if #elements < step then break end
    from = from + step
    step = step * 4
  end
  -- Older than all: below the floor of a built window, but one being rebuilt takes everything.
  if not building then return 0 end
  call('RPUSH', key, entry)
  return 1
end

-- Inserts an entry in its place in a window that exists. Returns 1 where it was not there.
local function push(key, entry, hi, lo, length)
  local head = call('LINDEX', key, 0)
  if not head then return 0 end
  local hhi, hlo = unpack_id('>I4I4', head)
  if hhi < hi or (hhi == hi and hlo < lo) then
    trim(key, call('LPUSH', key, entry), length)
    return 1
  end
  return insert_late(key, entry, hi, lo, length)
end

-- Removes an entry. A rebuild that runs may have read it before it was deleted: it starts over.
local function remove(key, entry)
  local head = call('LINDEX', key, 0)
  if not head then return 0 end
  if unpack_id('>I4', head) == MARK then
    call('DEL', key)
    return 0
  end
  return call('LREM', key, 1, entry)
end

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
-- ARGV 1 fence, 2 '{sN}', 3 window length, 4 deliveries to try in this call,
--      5 followers of one tweet to serve before it is the next one's turn, then for each change:
--      op, author, argument, progress
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
-- ones wait. Raises FENCED where a newer owner of the partition was here.
local function fanout(keys, argv)
  local fence = tonumber(argv[1])
  if not fenced(keys[1], fence) then
    return server.error_reply('FENCED a newer owner of this partition was here')
  end
  local tag, length = argv[2], tonumber(argv[3])
  local budget, chunk = tonumber(argv[4]), tonumber(argv[5])
  local timeline, followers_of = 'timeline:' .. tag .. ':', 'followers:' .. tag .. ':'
  local lease = 'lease:' .. tag .. ':'
  local inserted, waiting, replies = 0, {}, {}

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
    if op == 'push' then
      for i = first, #members do
        inserted = inserted + push(timeline .. members[i], entry, hi, lo, length)
      end
    elseif op == 'push_active' then
      for i = first, #members do
        local window = timeline .. members[i]
        if call('EXISTS', window) == 1 then
          if call('EXISTS', lease .. members[i]) == 1 then
            inserted = inserted + push(window, entry, hi, lo, length)
          else
            call('DEL', window)
          end
        end
      end
    else
      for i = first, #members do
        inserted = inserted + remove(timeline .. members[i], entry)
      end
    end
    local served = #members - first + 1
    budget = budget - served
    if served < turn then return 'done' end
    return string.format('%.0f %s', offset + served, generation)
  end

  for i = 6, #argv, 4 do
    local op, author, argument, progress = argv[i], argv[i + 1], argv[i + 2], argv[i + 3]
    local reply = 'done'
    if waiting[author] then
      reply = progress
    elseif op == 'push' or op == 'push_active' or op == 'remove' then
      reply = budget > 0 and deliver(op, author, argument, progress) or progress
      if reply ~= 'done' then waiting[author] = true end
    elseif op == 'follow' or op == 'unfollow' then
      local key = followers_of .. author
      if op == 'unfollow' then
        call('LREM', key, 0, argument)
      elseif call('LINDEX', key, 0)
        and not call('LPOS', key, argument, 'RANK', -1, 'MAXLEN', REPLAYED) then
        call('RPUSH', key, argument)
      end
      call('DEL', timeline .. argument, 'viewer:' .. tag .. ':' .. argument)
    else
      local hi, lo = unpack_id('>I4I4', argument)
      local window = (op == 'timeline' or op == 'untimeline') and timeline or 'recent:' .. tag .. ':'
      if op == 'timeline' or op == 'recent' then
        inserted = inserted + push(window .. author, argument, hi, lo, length)
      else
        inserted = inserted + remove(window .. author, argument)
      end
    end
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

-- push_own: puts an author's new entry into the own window, outside the event log's order.
-- KEYS 1 window   ARGV 1 entry, 2 length   Returns 1 where it was inserted.
local function push_own(keys, argv)
  local hi, lo = unpack_id('>I4I4', argv[1])
  return push(keys[1], argv[1], hi, lo, tonumber(argv[2]))
end

-- remove_own: takes an author's entry out of the own window.  KEYS 1 window   ARGV 1 entry
local function remove_own(keys, argv)
  return remove(keys[1], argv[1])
end

-- begin_rebuild: marks an absent window as being rebuilt.
-- KEYS 1 window, and of a viewer: 2 token, 3 lease
-- ARGV 1 mark (32 bytes: 2^64-1, then a token), 2 seconds the mark lives, and of a viewer: 3 the
-- token under which the relations were read, 4 seconds the lease lives
-- With a viewer, it also renews the lease: from now on active pushes wait behind the mark.
-- Returns 'begun', 'built' (there is one), 'busy' (somebody else rebuilds it), or 'changed' (the
-- relations that the snapshot would be read with are not the viewer's any more: the drop that came
-- with the change is past, so nothing else would undo a window made from them).
local function begin_rebuild(keys, argv)
  if keys[2] then
    if call('GET', keys[2]) ~= argv[3] then return 'changed' end
    call('SET', keys[3], '1', 'EX', argv[4])
  end
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

server.register_function('chirp_fanout', ready(fanout))
server.register_function('chirp_load_followers', ready(load_followers))
server.register_function('chirp_push_own', ready(push_own))
server.register_function('chirp_remove_own', ready(remove_own))
server.register_function('chirp_begin_rebuild', ready(begin_rebuild))
server.register_function('chirp_commit_rebuild', ready(commit_rebuild))
