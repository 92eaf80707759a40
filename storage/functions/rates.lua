#!lua name=chirp_rates
-- Rate limits: the generic cell rate algorithm; domain/rate.py has the formula and its source.
--
--   rate:<policy>:{<subject>}   string: TAT, microseconds since 1970 by this Valkey's clock. Goes
--                               when it is past: who did nothing for a window has no key.

-- chirp_charge: checks and counts in one step.
-- KEYS 1 rate:<policy>:{<subject>}
-- ARGV 1 what is charged, 2 how far TAT may lie ahead, both in microseconds, 3 '1': it was done
--      already, charge it in any case
-- Returns {1 where it was charged, else 0; how far TAT now lies ahead, in microseconds}
local function charge(keys, argv)
  local time = server.call('TIME')
  local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
  local cost, most = tonumber(argv[1]), tonumber(argv[2])
  local ahead = (tonumber(server.call('GET', keys[1]) or '') or 0) - now
  -- A clock that was set back must not keep anybody out for longer than two windows.
  ahead = math.min(math.max(ahead, 0), 2 * most)
  if argv[3] ~= '1' and ahead + cost > most then return {0, ahead} end
  ahead = ahead + cost
  server.call('SET', keys[1], string.format('%.0f', now + ahead), 'PX', math.ceil(ahead / 1000))
  return {1, ahead}
end

server.register_function('chirp_charge', charge)
