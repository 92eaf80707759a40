-- Reads with another token each time. Argument: a file with a token in each line.
local requests, threads = {}, 0

function setup(thread)
  threads = threads + 1
  thread:set('number', threads)
end

function init(args)
  math.randomseed(number)
  for token in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format('GET', nil, { authorization = 'Bearer ' .. token })
  end
end

function request()
  return requests[math.random(#requests)]
end

-- RESULT requests, microseconds, errors, p50 and p99 in microseconds: bench/tools.py reads it.
function done(summary, latency)
  local e = summary.errors
  io.write(string.format('RESULT %d %d %d %d %d\n', summary.requests, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
