"""The metrics of Chirp: each with its kind, unit and meaning, declared once and here alone.
`docs/metrics.md` is made of this file; a test compares it with what the processes tell.

Labels have few values: an RPC of the protos, a status code, a group, a partition, a tier; never an
account, an address or a text.
"""

from typing import Final

from mesh.metrics import Metric

FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: for what answers somebody who waits."""
SLOW = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Seconds: for what goes on behind people's backs."""

# Calls
RPC_CALLS: Final = Metric(
    "chirp_rpc_calls_total",
    "counter",
    "calls",
    "Calls that ended, by status code; of a stream, when it ended. Health and reflection are left"
    " out. A call whose client went away is CANCELLED.",
    ("service", "method", "code"),
)
RPC_SECONDS: Final = Metric(
    "chirp_rpc_seconds",
    "histogram",
    "seconds",
    "How long unary calls took in this process, from the handler's first step to its answer or"
    " error.",
    ("service", "method"),
    FAST,
)
RPC_IN_FLIGHT: Final = Metric(
    "chirp_rpc_in_flight", "gauge", "calls", "Unary calls that this process works on now."
)
RPC_REFUSED: Final = Metric(
    "chirp_rpc_refused_total",
    "counter",
    "calls",
    "Unary calls that this process refused before it looked at them, because it worked on as many"
    " as it may. They are in no other metric of calls.",
)
OPEN_STREAMS: Final = Metric(
    "chirp_open_streams", "gauge", "streams", "Server streams that are open in this process."
)
RATES_REFUSED: Final = Metric(
    "chirp_rate_limited_total",
    "counter",
    "calls",
    "Calls that this server refused because the account had used its quota of the kind.",
    ("kind",),
)
RATES_UNCHECKED: Final = Metric(
    "chirp_rate_unchecked_total",
    "counter",
    "calls",
    "Calls that this server let through without counting them for all replicas, because the cache"
    " Valkey did not answer.",
    ("kind",),
)
SIGN_INS_REFUSED: Final = Metric(
    "chirp_sign_ins_refused_total",
    "counter",
    "calls",
    "Sign-ins and sign-ups that this server refused because a name or an address had too many.",
    ("kind",),
)
SIGN_INS_UNCHECKED: Final = Metric(
    "chirp_sign_ins_unchecked_total",
    "counter",
    "calls",
    "Sign-ins and sign-ups that this server let through uncounted, because the cache Valkey did not"
    " answer.",
    ("kind",),
)

# What calls are answered from
CACHE_LOOKUPS: Final = Metric(
    "chirp_cache_lookups_total",
    "counter",
    "look-ups",
    "Look-ups in a cache, by result, hit or miss. `viewers` (relations), `names` (of accounts) and"
    " `tweets` are in the process; `tweet_records`, `timelines` and `recents` (windows) in Valkey.",
    ("cache", "result"),
)
HOME_DATABASE_READS: Final = Metric(
    "chirp_home_database_reads_total",
    "counter",
    "queries",
    "Queries to PostgreSQL for pages of home timelines whose end the windows did not reach, or"
    " while the cache was away.",
)
HOME_QUICK_PAGES: Final = Metric(
    "chirp_home_quick_pages_total",
    "counter",
    "pages",
    "First pages of home timelines that were made in one pass of C. None where it is not compiled.",
)
PURGE_FEED_FRESH: Final = Metric(
    "chirp_purge_feed_fresh",
    "gauge",
    "0 or 1",
    "Whether this server knows what its caches must forget; while it does not, it trusts none.",
)
POOL_CONNECTIONS: Final = Metric(
    "chirp_pool_connections",
    "gauge",
    "connections",
    "Connections of this process to PostgreSQL, `idle` or `used`.",
    ("state",),
)
POOL_WAITING: Final = Metric(
    "chirp_pool_waiting", "gauge", "callers", "Who waits for a connection to PostgreSQL now."
)
POOL_REQUESTS: Final = Metric(
    "chirp_pool_requests_total", "counter", "requests", "Connections asked of the pool."
)
POOL_WAITS: Final = Metric(
    "chirp_pool_waits_total", "counter", "requests", "Those that had to wait for one."
)
POOL_WAIT_SECONDS: Final = Metric(
    "chirp_pool_wait_seconds_total", "counter", "seconds", "For how long they waited in all."
)
POOL_REFUSALS: Final = Metric(
    "chirp_pool_refusals_total",
    "counter",
    "requests",
    "Those that got none: it took too long, or too many waited.",
)

# Events
OUTBOX_UNSENT: Final = Metric(
    "chirp_outbox_unsent_events",
    "gauge",
    "events",
    "Committed events that wait for the relay. Each relay tells it, leading or not.",
)
OUTBOX_SENT: Final = Metric(
    "chirp_outbox_sent_events_total",
    "counter",
    "events",
    "Events that this relay put into the event log, repetitions too.",
)
RELAY_LEADS: Final = Metric(
    "chirp_relay_leads", "gauge", "0 or 1", "Whether this relay leads; the sum over all is to be 1."
)
EVENT_LAG: Final = Metric(
    "chirp_event_lag_records",
    "gauge",
    "records",
    "Records of a partition of the event log that a consumer group has not handled. Each member of"
    " the group tells it for the whole group.",
    ("group", "partition"),
)
EVENTS_HANDLED: Final = Metric(
    "chirp_events_handled_total",
    "counter",
    "records",
    "Records that this member of a group handled, repetitions too.",
    ("group", "partition"),
)
EVENT_SECONDS: Final = Metric(
    "chirp_event_handling_seconds",
    "histogram",
    "seconds",
    "How long handling took, for each batch that had records of the partition. What is waited"
    " between tries in an outage is left out.",
    ("group", "partition"),
    SLOW,
)
DEAD_LETTERS: Final = Metric(
    "chirp_dead_letters",
    "gauge",
    "records",
    "Records that a group could not handle and keeps (`chirp deadletters`). Each member tells it"
    " for the whole group.",
    ("group",),
)

# Timelines
DELIVERIES: Final = Metric(
    "chirp_deliveries_total",
    "counter",
    "entries",
    "Entries that this worker put into windows that had them not: `pushed` into home timelines, of"
    " followers and rarely the author's own; `pulled` into the author's recent tweets, which"
    " followers' reads merge. By the tier stamped on the tweet.",
    ("tier", "way"),
)
FRESHNESS: Final = Metric(
    "chirp_timeline_freshness_seconds",
    "histogram",
    "seconds",
    "From the moment that tweet_server wrote a tweet's event, just before its commit, until fan-out"
    " had put the tweet, and all of its batch, where followers' reads find it. By the tier stamped"
    " on it. Two machines' clocks are compared. Events sent again to a log that was lost do not"
    " count; one that a worker repeats after another's death does.",
    ("tier",),
    SLOW,
)
VERIFIED: Final = Metric(
    "chirp_verified_timelines_total",
    "counter",
    "timelines",
    "Home timelines that `chirp verify` ever compared with the oracle. Of all runs on this"
    " database, as the next two; every timeline server tells them.",
)
VERIFY_DIFFERENCES: Final = Metric(
    "chirp_verify_differences_total",
    "counter",
    "timelines",
    "Home timelines that differed from the oracle, repaired or not.",
)
REPAIRS: Final = Metric(
    "chirp_timeline_repairs_total",
    "counter",
    "timelines",
    "Home timelines that `chirp verify --repair` made anew; `mended` where they equalled the oracle"
    " then, else `failed`.",
    ("outcome",),
)

# Trends
TREND_USES_DROPPED: Final = Metric(
    "chirp_trend_uses_dropped_total",
    "counter",
    "uses",
    "Uses of hashtags that this trend worker dropped since its start, because there were more than"
    " it may keep (CHIRP_TREND_USES_MAX).",
)

# The process. The names without chirp_ are those of Prometheus' own libraries.
LOOP_LAG: Final = Metric(
    "chirp_event_loop_lag_seconds",
    "histogram",
    "seconds",
    "By how much the event loop woke a timer too late, ten times a second: what anything that is"
    " ready waits for its turn.",
    (),
    FAST,
)
PROCESS_CPU: Final = Metric(
    "process_cpu_seconds_total", "counter", "seconds", "Processor time of this process."
)
PROCESS_STARTED: Final = Metric(
    "process_start_time_seconds", "gauge", "seconds since 1970", "When this process started."
)
PROCESS_MEMORY: Final = Metric(
    "process_resident_memory_bytes",
    "gauge",
    "bytes",
    "Memory of this process; on Linux alone, as the next one.",
)
PROCESS_FILES: Final = Metric(
    "process_open_fds", "gauge", "files", "File descriptors that are open."
)

METRICS: Final = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All of them, in the order of this file."""
