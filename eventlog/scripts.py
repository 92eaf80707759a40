"""What the Valkey engine does atomically, as Lua, and the keys it does it to.

    eventlog:{p3}                     stream of partition 3: fields k (key), p (payload); the id is
                                      <epoch>-<n>, n counting from 1 without holes in an epoch
    eventlog:{p3}:head                hash: epoch, n (last appended in it), fence (highest writer),
                                      refill (set by a consumer that missed records)
    eventlog:{p3}:group:<group>       hash: owner, until (ms, server's clock), fence, position
    eventlog:groups                   set: names of all groups that ever had a member
    eventlog:{g:<group>}:members      sorted set: member, by when it is taken for dead (ms)
    eventlog:{g:<group>}:notice       stream of at most one entry: wakes members that poll
    eventlog:{g:<group>}:deadletters  hash: id of the letter -> letter (JSON)
    eventlog:{g:<group>}:redrive      set: ids of letters to be handled again

Each script touches one slot. They are plain scripts and not a function library, so that two
releases that run side by side each use their own.

Counting ids make three things plain: a hole is a trimmed record, lag is a difference, and an append
that names the count it builds on is refused when a delayed earlier try has slipped in before it.
Lua's numbers are exact to 2^53; epochs and fences are of the size of milliseconds or microseconds
since 1970, below 2^51.
"""

FIELD_KEY, FIELD_PAYLOAD = b"k", b"p"
GROUPS_KEY = "eventlog:groups"

CLAIM = """
-- Takes a partition's head for a writer. With start_over, begins a new epoch.
-- KEYS head; ARGV fence, start_over ('1' or '0'). Returns {code, epoch, n}.
local head = redis.call('HMGET', KEYS[1], 'epoch', 'n', 'fence')
local fence = tonumber(ARGV[1])
if head[3] and fence < tonumber(head[3]) then return {'FENCED', '0', '0'} end
redis.call('HSET', KEYS[1], 'fence', ARGV[1])
if ARGV[2] == '1' then
  local epoch = string.format('%.0f', math.max(tonumber(head[1] or '0') + 1, fence))
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'n', '0')
  redis.call('HDEL', KEYS[1], 'refill')
  return {'OK', epoch, '0'}
end
return {'OK', head[1] or '0', head[2] or '0'}
"""

APPEND = """
-- Appends records behind the count that the writer knows.
-- KEYS stream, head; ARGV epoch, fence, n, retention, then key and payload of each record.
-- Returns {code, n}. LOST: another epoch, or fewer records than the writer appended. MOVED: more,
-- from an earlier try whose answer was lost; the writer tries again behind them.
local head = redis.call('HMGET', KEYS[2], 'epoch', 'n', 'fence')
if head[3] and tonumber(ARGV[2]) < tonumber(head[3]) then return {'FENCED', '0'} end
if head[1] ~= ARGV[1] then return {'LOST', '0'} end
local n, expected = tonumber(head[2]), tonumber(ARGV[3])
if n < expected then return {'LOST', head[2]} end
if n > expected then return {'MOVED', head[2]} end
local retention = ARGV[4]
for i = 5, #ARGV, 2 do
  n = n + 1
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', retention, ARGV[1] .. '-' .. string.format('%.0f', n),
    'k', ARGV[i], 'p', ARGV[i + 1])
end
local last = string.format('%.0f', n)
redis.call('HSET', KEYS[2], 'n', last, 'fence', ARGV[2])
return {'OK', last}
"""

LEASE = """
-- Renews the lease of its owner, or takes a free one (take = '1').
-- KEYS group; ARGV member, lease_ms, take. Returns {code, fence, position}: OWNED, FREE (when not
-- to be taken) or OTHER. A lease that ran out is free also for its last owner, under a new fence:
-- the clock makes fences grow even when the hash was lost.
local now = redis.call('TIME')
local now_us = now[1] * 1000000 + now[2]
local now_ms = math.floor(now_us / 1000)
local state = redis.call('HMGET', KEYS[1], 'owner', 'until', 'fence', 'position')
local position = state[4] or '0-0'
local live = state[1] and state[1] ~= '' and tonumber(state[2]) > now_ms
if live and state[1] ~= ARGV[1] then return {'OTHER', state[3], position} end
if not live and ARGV[3] ~= '1' then return {'FREE', state[3] or '0', position} end
local fence = state[3]
if not live then
  fence = string.format('%.0f', math.max(tonumber(state[3] or '0') + 1, now_us))
end
local expiry = string.format('%.0f', now_ms + tonumber(ARGV[2]))
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'until', expiry, 'fence', fence,
  'position', position)
return {'OWNED', fence, position}
"""

COMMIT = """
-- Sets the position, if the lease is the caller's. KEYS group; ARGV member, fence, position.
-- Returns 1, or 0 where it is not.
local now = redis.call('TIME')
local state = redis.call('HMGET', KEYS[1], 'owner', 'until', 'fence')
if state[1] ~= ARGV[1] or state[3] ~= ARGV[2] then return 0 end
if tonumber(state[2]) <= now[1] * 1000 + math.floor(now[2] / 1000) then return 0 end
redis.call('HSET', KEYS[1], 'position', ARGV[3])
return 1
"""

RELEASE = """
-- Gives a lease up, if it is the caller's. KEYS group; ARGV member, fence.
local state = redis.call('HMGET', KEYS[1], 'owner', 'fence')
if state[1] ~= ARGV[1] or state[2] ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'owner', '', 'until', '0')
return 1
"""

REWIND = """
-- Sets the position to the beginning and breaks the lease. KEYS group.
redis.call('HSET', KEYS[1], 'owner', '', 'until', '0', 'position', '0-0')
return 1
"""

MEMBERS = """
-- Beats a member's heart and tells who is alive, in order. KEYS members; ARGV member, lease_ms.
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('ZADD', KEYS[1], string.format('%.0f', now_ms + tonumber(ARGV[2])), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now_ms))
local members = redis.call('ZRANGE', KEYS[1], 0, -1)
table.sort(members)
return members
"""

BURY = """
-- Keeps a dead letter unless there is no room. KEYS deadletters; ARGV id, letter, max.
-- The same letter again replaces itself. Returns 1, or 0 where it is full.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0
    and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
"""


def stream_key(partition: int) -> str:
    """The stream of a partition."""
    return f"eventlog:{{p{partition}}}"


def head_key(partition: int) -> str:
    """What the writer knows of a partition."""
    return f"eventlog:{{p{partition}}}:head"


def group_key(partition: int, group: str) -> str:
    """A group's ownership and position in a partition."""
    return f"eventlog:{{p{partition}}}:group:{group}"


def members_key(group: str) -> str:
    """Who is in a group."""
    return f"eventlog:{{g:{group}}}:members"


def notice_key(group: str) -> str:
    """What wakes the members of a group."""
    return f"eventlog:{{g:{group}}}:notice"


def letters_key(group: str) -> str:
    """A group's dead letters."""
    return f"eventlog:{{g:{group}}}:deadletters"


def redrive_key(group: str) -> str:
    """The dead letters that a group is to handle again."""
    return f"eventlog:{{g:{group}}}:redrive"
