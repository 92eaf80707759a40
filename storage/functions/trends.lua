#!lua name=chirp_trends
-- The published trends. All keys lie in one slot: {trends}.
--
--   trends:{trends}:head     hash: version (grows with each change), base (the version since which
--                            changes are known), fence (the greatest of a publisher), as_of (ms),
--                            places (fields of lists)
--   trends:{trends}:lists    hash: place -> its lists, as trend_worker serialised them
--   trends:{trends}:changed  hash: place -> version in which its lists changed, or went
--
-- A cache may lose any of them at any time. What is left is then no whole, which both functions see
-- by the number of places; the publisher then counts and publishes everything again.

local function whole(head, lists)
  local known = server.call('HMGET', head, 'version', 'places', 'base', 'as_of')
  if not known[1] then return nil end
  if tonumber(known[2]) ~= server.call('HLEN', lists) then return nil end
  return known
end

-- chirp_publish_trends: changes the lists of some places.
-- KEYS head, lists, changed
-- ARGV 1 fence, 2 the version that the caller published last, '' to replace everything, 3 as_of,
--      then place and lists of each changed place; empty lists take the place out
-- Returns the version that stands now. Changes nothing and returns 'LOST' where nothing whole is
-- there or somebody else published it, and 'MOVED' where the caller itself did, in a call whose
-- answer it never saw. Raises FENCED where a publisher with a greater fence was here.
local function publish(keys, argv)
  local head, lists, changed = keys[1], keys[2], keys[3]
  local seen = server.call('HGET', head, 'fence')
  if seen and tonumber(seen) > tonumber(argv[1]) then
    return server.error_reply('FENCED a newer worker publishes trends')
  end
  local known = whole(head, lists)
  local version = known and tonumber(known[1]) or 0
  if argv[2] == '' then
    server.call('DEL', lists, changed)
  elseif not known then
    return 'LOST'
  elseif known[1] ~= argv[2] then
    return seen == argv[1] and 'MOVED' or 'LOST'
  end
  if argv[2] == '' or #argv > 3 then
    -- The time makes versions grow also when the head was lost: in microseconds, as what is
    -- published in parts has a version for each.
    version = math.max(version + 1, tonumber(argv[3]) * 1000)
  end
  local text = string.format('%.0f', version)
  for i = 4, #argv, 2 do
    if argv[i + 1] == '' then
      server.call('HDEL', lists, argv[i])
    else
      server.call('HSET', lists, argv[i], argv[i + 1])
    end
    server.call('HSET', changed, argv[i], text)
  end
  server.call('HSET', head, 'version', text, 'fence', argv[1], 'as_of', argv[3],
    'places', tostring(server.call('HLEN', lists)))
  if argv[2] == '' then server.call('HSET', head, 'base', text) end
  return text
end

-- chirp_read_trends: what changed since a version.
-- KEYS head, lists, changed
-- ARGV 1 the version that the caller has, '' for none
-- Returns {version, as_of, '1' where everything is told and the caller has to forget the rest, then
-- place and lists of each changed place}; empty where nothing, or no whole, is published.
local function read(keys, argv)
  local known = whole(keys[1], keys[2])
  if not known then return {} end
  local reply = {known[1], known[4], '0'}
  if known[1] == argv[1] then return reply end
  local since = tonumber(argv[1])
  if not since or since < tonumber(known[3]) or since > tonumber(known[1]) then
    reply[3] = '1'
    for _, each in ipairs(server.call('HGETALL', keys[2])) do reply[#reply + 1] = each end
    return reply
  end
  local changed = server.call('HGETALL', keys[3])
  for i = 1, #changed, 2 do
    if tonumber(changed[i + 1]) > since then
      reply[#reply + 1] = changed[i]
      reply[#reply + 1] = server.call('HGET', keys[2], changed[i]) or ''
    end
  end
  return reply
end

server.register_function('chirp_publish_trends', publish)
server.register_function{
  function_name = 'chirp_read_trends', callback = read, flags = {'no-writes'}
}
