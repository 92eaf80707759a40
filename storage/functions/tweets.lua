#!lua name=chirp_tweets
-- put_tweet: stores a record unless a newer one is there.
-- KEYS 1 tweet:<id>   ARGV 1 version (8 bytes, big-endian) and record, 2 seconds it lives
local function put_tweet(keys, argv)
  local known = server.call('GETRANGE', keys[1], 0, 7)
  if #known == 8 then
    local khi, klo = struct.unpack('>I4I4', known)
    local nhi, nlo = struct.unpack('>I4I4', argv[1])
    if khi > nhi or (khi == nhi and klo > nlo) then return 0 end
  end
  server.call('SET', keys[1], argv[1], 'EX', argv[2])
  return 1
end

server.register_function('chirp_put_tweet', put_tweet)
