#!lua name=chirp_signins
-- Sign-ins and sign-ups: the generic cell rate algorithm; domain/rate.py has the formula and its
-- source. All keys lie in one slot, so that one call sees an account's and an address's.
--
--   {signins}:<policy>:<digest>   string: TAT, microseconds since 1970 by this Valkey's clock. Goes
--                                 when it is past. The digest hides what people typed.

local function now()
  local time = server.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- How far a key's TAT lies ahead. A clock that was set back must not keep anybody out for longer
-- than two windows.
local function ahead_of(key, at, most)
  local ahead = (tonumber(server.call('GET', key) or '') or 0) - at
  return math.min(math.max(ahead, 0), 2 * most)
end

local function keep(key, at, ahead)
  if ahead <= 0 then
    server.call('DEL', key)
  else
    server.call('SET', key, string.format('%.0f', at + ahead), 'PX', math.ceil(ahead / 1000))
  end
end

-- chirp_attempt: counts an attempt on all keys, or, where one has no more, on none.
-- KEYS {signins}:<policy>:<digest> ...
-- ARGV of each key: what is charged, how far TAT may lie ahead, both in microseconds
-- Returns {0, 0} where it was counted, else {number of the key that has no more, microseconds until
-- it has}; of several, the one that takes longest.
local function attempt(keys, argv)
  local at, aheads = now(), {}
  local refused, longest = 0, 0
  for i, key in ipairs(keys) do
    local cost, most = tonumber(argv[2 * i - 1]), tonumber(argv[2 * i])
    aheads[i] = ahead_of(key, at, most) + cost
    if aheads[i] - most > longest then refused, longest = i, aheads[i] - most end
  end
  if refused == 0 then
    for i, key in ipairs(keys) do keep(key, at, aheads[i]) end
  end
  return {refused, longest}
end

-- chirp_forgive: gives back what one attempt was charged: it was right.
-- KEYS 1 {signins}:<policy>:<digest>
-- ARGV 1 what was charged, 2 how far TAT may lie ahead, both in microseconds
local function forgive(keys, argv)
  local at = now()
  keep(keys[1], at, ahead_of(keys[1], at, tonumber(argv[2])) - tonumber(argv[1]))
  return 1
end

server.register_function('chirp_attempt', attempt)
server.register_function('chirp_forgive', forgive)
