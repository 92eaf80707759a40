-- Windows of one user: own entries, outside the event log's order, and rebuilds. The third part of
-- the library; windows.lua says what the keys hold.

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

local function tag_of(key)
  return string.match(key, '{.-}')
end

-- push_own: puts an author's new entry into the own window, outside the event log's order.
-- KEYS 1 window   ARGV 1 entry, 2 length   Returns 1 where it was inserted.
local function push_own(keys, argv)
  local hi, lo = unpack_id('>I4I4', argv[1])
  return (push(recall(tag_of(keys[1])), keys[1], argv[1], hi, lo, tonumber(argv[2])))
end

-- remove_own: takes an author's entry out of the own window.  KEYS 1 window   ARGV 1 entry
local function remove_own(keys, argv)
  return (remove(keys[1], argv[1]))
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
  forget(recall(tag_of(keys[1])), keys[1])
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

server.register_function('chirp_push_own', ready(push_own))
server.register_function('chirp_remove_own', ready(remove_own))
server.register_function('chirp_begin_rebuild', ready(begin_rebuild))
server.register_function('chirp_commit_rebuild', ready(commit_rebuild))
