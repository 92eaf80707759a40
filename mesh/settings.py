"""Every setting of every process, parsed once from the environment (`CHIRP_*`).

`chirp up` sets the addresses of what it starts; with outside services, set them yourself. A wrong
value stops a process at start with one line that names it.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from domain.rate import Kind, Limit
from domain.trend import Rules, Statistic


def _checked_rate(text: str) -> str:
    Limit.parse(text)
    return text


Port = Annotated[int, Field(ge=1, le=65535)]
Rate = Annotated[str, AfterValidator(_checked_rate)]
Target = Annotated[str, Field(pattern=r"^(dns:///[^\s,/]+:\d+|ipv4:[\d.]+:\d+(,[\d.]+:\d+)*)$")]
"""What gRPC finds all replicas by, so that calls go to each in turn: a name, or their addresses."""


class Settings(BaseSettings):
    """The settings. Each field's environment variable is CHIRP_ and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix="CHIRP_", frozen=True, extra="ignore")

    # Where things listen and live
    port: Port = 8080
    """Where the gateway listens on `chirp up`."""
    host: str = "127.0.0.1"
    """The address that it listens on; 0.0.0.0 lets other machines in."""
    free_ports: Annotated[str, Field(pattern=r"^[1-9]\d{3,4}-[1-9]\d{3,4}$")] = "20000-31999"
    """Which ports `chirp up` gives to what it starts, first-last. Ports that the system gives to
    outgoing connections, on Linux from 32768 on, could be taken while a server starts again."""
    sample: bool = True
    """Whether `chirp up` fills an empty database with a sample world."""
    data: Path = Path(".chirp")
    """The folder that `chirp up` keeps everything in."""
    listen: str = "127.0.0.1:0"
    """host:port that this server's or worker's gRPC listens on; port 0 takes a free one."""
    metrics_listen: str = ""
    """host:port that answers `GET /metrics` to Prometheus; nothing does where it is empty."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """How processes log: `json`, one object a line; `text`, for people; `auto`, text on a terminal
    and else JSON. `chirp up` lets its own write text, which people read in its data folder."""
    log_levels: Path = Field(default_factory=lambda told: told["data"] / "log-levels")
    """A file that says how much is logged, followed while processes run: mesh/logs.py. By default
    `log-levels` in CHIRP_DATA."""
    traces: Annotated[str, Field(pattern=r"^(https?://[^/\s]+/?)?$")] = ""
    """Where traces go: the URL of a collector that takes OTLP by HTTP, such as
    http://collector:4318; nowhere where it is empty."""
    traces_sampled: Annotated[float, Field(gt=0, le=1)] = 0.01
    """The part of all requests that is traced, where any is; decided at the gateway."""
    keys: Path = Path(".chirp/keys")
    """The folder of the keys that sign tokens and of those that are believed: mesh/keys.py."""

    tls: bool = False
    """Whether services talk to each other, and the gateway to them, over mutual TLS; alike for all
    processes of a stack. `chirp certs`, `up` and `migrate` make the certificates."""
    certs: Path = Field(default_factory=lambda told: told["data"] / "certs")
    """The folder of the certificates of each service and the gateway: mesh/tls.py. By default
    `certs` in CHIRP_DATA."""

    # Outside services
    database_url: str = "postgresql://chirp@127.0.0.1:5432/chirp"
    """PostgreSQL, the truth."""
    valkey_url: str = "redis://127.0.0.1:6379/0"
    """Valkey for caches and timelines; may evict, may lose everything. `rediss://` is TLS, with
    `?ssl_ca_certs=<file>` by an authority of one's own. `redis+cluster://` or `rediss+cluster://`
    names any node of a Valkey Cluster: without it, a cluster refuses most calls.
    `unix://:password@/path?db=0` is a socket of the same machine."""
    eventlog_url: str = "redis://127.0.0.1:6380/0"
    """Valkey for the event log; must not evict, keeps an append-only file."""

    # Where the other servers are: dns:///tweet-server:50051, or ipv4: and the addresses of all
    tweet_target: Target = "dns:///127.0.0.1:50051"
    """TweetService and TweetRecordService."""
    graph_target: Target = "dns:///127.0.0.1:50052"
    """UserService, UserDirectoryService and GraphService."""
    timeline_target: Target = "dns:///127.0.0.1:50053"
    """TimelineService."""
    trend_target: Target = "dns:///127.0.0.1:50054"
    """TrendService."""
    trend_count_target: Target = "dns:///127.0.0.1:50055"
    """TrendCountService, answered by the trend worker."""
    notification_target: Target = "dns:///127.0.0.1:50056"
    """NotificationService."""

    # Identity
    token_issuer: str = "chirp"  # noqa: S105 - a name, no secret
    """`iss` of the tokens."""
    token_audience: str = "chirp"  # noqa: S105 - likewise
    """`aud` of the tokens."""
    token_lifetime_s: Annotated[int, Field(ge=60, le=2_592_000)] = 86_400
    """How long an access token is good."""
    key_lead_s: Annotated[int, Field(ge=0, le=86_400)] = 60
    """A new key is published for so long before it signs, so that everybody knows it by then: the
    servers within 2 s, the gateway within CHIRP_JWKS_CACHE_S."""
    jwks_cache_s: Annotated[int, Field(ge=1, le=60)] = 10
    """How long the gateway believes the keys that it fetched; it fetches them anew before that."""
    token_cache_max: Annotated[int, Field(ge=1)] = 100_000
    """Verified tokens kept by a server; the oldest is forgotten first."""

    sign_in_account: Rate = "10/900"
    """Wrong passwords for one name, whether it is taken or not, as quota/seconds: so many at once,
    and they come back evenly. Sign-ups under one name have the same quota, of their own."""
    sign_in_address: Rate = "60/600"
    """Sign-ins of one address, over all gateways; of IPv6, of one network of 64 bits."""
    sign_up_address: Rate = "60/3600"
    """Sign-ups of one address, likewise."""
    password_hashes_max: Annotated[int, Field(ge=1, le=64)] = 2
    """Password hashes that a graph server computes at once; each takes a core and 19 MiB."""

    # Timelines
    timeline_length: Annotated[int, Field(ge=3, le=10_000)] = 800
    """Entries kept in a materialised home timeline. A cache size: it shows nowhere."""
    repeat_distance: Annotated[int, Field(ge=1, le=400)] = 40
    """A tweet is not repeated within so many entries (visibility rule 4)."""
    timeline_shards: Annotated[int, Field(ge=1, le=4096)] = 4
    """Logical shards of timelines and follower lists; fixed for ever once the database is made."""
    timeline_keep_days: Annotated[int, Field(ge=1, le=365)] = 30
    """A timeline that nobody read for so long is no longer materialised."""
    notification_keep_days: Annotated[int, Field(ge=1, le=3650)] = 90
    """A notification that nothing has touched for so long is deleted."""
    influencer_followers: Annotated[int, Field(ge=1)] = 10_000
    """From so many followers on, an account's tweets are not pushed to all of them."""
    celebrity_followers: Annotated[int, Field(ge=1)] = 1_000_000
    """From so many followers on, an account's tweets are pulled by all of them."""
    tier_hysteresis: Annotated[float, Field(gt=0, le=1)] = 0.9
    """An account goes down a tier below this part of the line that it went up at."""
    pulled_merge_max: Annotated[int, Field(ge=1, le=1_000)] = 100
    """Pulled authors whose recent tweets are merged when a follower reads. The timeline of a viewer
    who follows more of them comes from PostgreSQL, which is then quicker, and as exact."""
    fanout_chunk_deliveries: Annotated[int, Field(ge=1, le=100_000)] = 256
    """What one call to Valkey may cost, counted in deliveries to the head of a timeline: half a
    millisecond to one. Late, repeated and deleted entries count as more of them. A call that has
    taken 1.2 ms ends sooner."""

    # Events
    eventlog_partitions: Annotated[int, Field(ge=1, le=1024)] = 16
    """Partitions of the event log; fixed for ever once the database is made."""
    eventlog_retention_records: Annotated[int, Field(ge=1_000)] = 500_000
    """Records kept in each partition, about; more are in the outbox for 24 hours."""
    lease_ms: Annotated[int, Field(ge=200, le=60_000)] = 3_000
    """A worker that is silent for so long loses its partitions."""
    consumer_batch: Annotated[int, Field(ge=1, le=10_000)] = 512
    """Records that a consumer takes at once."""
    fanout_batch: Annotated[int, Field(ge=1, le=10_000)] = 10_000
    """Records that the fan-out worker takes at once: what a timeline gets from all of them goes
    there in one command. What cannot be delivered within a minute comes again in halves."""
    deadletters_max: Annotated[int, Field(ge=1)] = 1_000
    """Dead letters kept by a consumer group; when they are full, it stops instead of losing one."""
    outbox_poll_ms: Annotated[int, Field(ge=1, le=10_000)] = 10
    """How long the relay rests when the outbox is empty, unless it is told of new events."""
    outbox_keep_hours: Annotated[int, Field(ge=1)] = 24
    """How long sent events stay in the outbox, so that a lost log can be filled again."""

    # Trends. What the defaults are good for: docs/decisions/0011, `chirp trends backtest --grid`
    trend_authors_min: Annotated[int, Field(ge=1, le=1_000)] = 3
    """A tag trends only when so many different authors used it within the hour."""
    trend_place_tags_min: Annotated[int, Field(ge=0, le=50)] = 3
    """A place where fewer tags trend answers its parent's list instead."""
    trend_statistic: Literal["chi_squared", "poisson"] = "chi_squared"
    """What the order `rising` ranks by: see `domain/trend.py`."""
    trend_surprise_min: Annotated[float, Field(ge=0)] = 12.0
    """A tag rises only when it is at least so surprising."""
    trend_baseline_min: Annotated[float, Field(gt=0, le=1_000)] = 1.0
    """What a tag without a past is expected to have in an hour."""
    trend_overdispersion: Annotated[float, Field(ge=0, le=10)] = 0.3
    """By how much more than chance the hours of one tag differ, for the order `rising`."""
    trend_refresh_ms: Annotated[int, Field(ge=10, le=60_000)] = 1_000
    """How often the trend worker ranks anew."""
    trend_poll_ms: Annotated[int, Field(ge=5, le=10_000)] = 50
    """How often a trend server asks for new rankings."""
    trend_uses_max: Annotated[int, Field(ge=1_000)] = 5_000_000
    """Uses of the last two hours that the trend worker keeps, at about 250 bytes each. Above it the
    least used tags are dropped, never one that is on a list."""
    trend_places_max: Annotated[int, Field(ge=10, le=65_000)] = 5_000
    """Places that the trend worker knows; uses at further ones count for their parents."""

    # Rates: quota/seconds. The quota may be used at once, and comes back evenly within the seconds.
    rate_limits: bool = True
    """Whether anybody's calls are limited by rate. Off for load tools alone."""
    rate_post: Rate = "300/10800"
    """Tweets and retweets of one account, and taking them back."""
    rate_follow: Rate = "400/86400"
    """Follows, blocks and mutes of one account, and taking them back."""
    rate_like: Rate = "1000/86400"
    """Likes of one account, and taking them back."""
    rate_read: Rate = "900/900"
    """Reads of one account, and streams that it opens."""
    rate_account: Rate = "60/3600"
    """Changes of one account by itself, and ending its sessions."""
    rate_sign_in: Rate = "60/600"
    """Sign-ups and sign-ins of one address, at each gateway."""
    rate_address: Rate = "6000/60"
    """All requests of one address, at each gateway; of IPv6, of one network of 64 bits."""
    rate_addresses_max: Annotated[int, Field(ge=10, le=1_000_000)] = 50_000
    """Addresses that a gateway counts; the one that was longest away is forgotten first."""
    rate_unsettled_max: Annotated[int, Field(ge=2, le=1_000)] = 20
    """Reads of one account that a server has let through and not yet counted for all replicas."""
    gateway_connections_max: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Connections of clients that a gateway holds at once; more are closed at once."""
    gateway_trusted_hops: Annotated[int, Field(ge=0, le=10)] = 0
    """Proxies before the gateway that say in `x-forwarded-for` who their client is. With too few,
    all clients are one address; with too many, clients choose theirs."""

    # Limits
    database_pool_max: Annotated[int, Field(ge=1, le=1000)] = 8
    """Connections to PostgreSQL of one process."""
    database_timeout_s: Annotated[float, Field(gt=0)] = 5.0
    """Longest wait for a connection, and longest statement."""
    deadline_factor: Annotated[float, Field(gt=0, le=60)] = 1.0
    """How much longer than mesh/deadlines.py says calls may take, at servers and between them; for
    slow machines."""
    valkey_timeout_s: Annotated[float, Field(gt=0)] = 0.5
    """Longest wait for Valkey before a call does without it."""
    concurrent_calls_max: Annotated[int, Field(ge=1)] = 1_000
    """Calls that a server works on at once, streams aside; more are refused as OVERLOADED."""
    streams_max: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Streams open at once in one server, at 30 kB each; more are refused as OVERLOADED."""
    user_streams_max: Annotated[int, Field(ge=1)] = 20
    """Streams that one account has open at once in one server."""
    stream_write_s: Annotated[float, Field(ge=0.5, le=3_600)] = 30.0
    """A stream is cut off when an answer is not out after so long: its reader does not read."""
    stream_buffer_max: Annotated[int, Field(ge=1, le=10_000)] = 256
    """Tweets that wait for a home stream's reader; with more, the stream reads the log again."""
    stream_memory: Annotated[int, Field(ge=0, le=10_000)] = 1_000
    """Records of each partition of the log that a timeline server reads when it starts, so that
    streams that come back from another server need not read the log."""
    stream_resume_hours: Annotated[int, Field(ge=1)] = 12
    """A home stream's resume token is good for so long, also when the event log was lost; less than
    `outbox_keep_hours`."""
    heartbeat_s: Annotated[float, Field(ge=1, le=15)] = 10.0
    """A stream that is silent for so long says that it is alive. At most 15, as clients expect."""
    tweet_cache_bytes: Annotated[int, Field(ge=1_000_000)] = 256_000_000
    """Tweet bytes that a timeline server keeps."""
    user_cache_max: Annotated[int, Field(ge=1)] = 200_000
    """Account names that a server keeps."""
    viewer_cache_max: Annotated[int, Field(ge=1)] = 200_000
    """Viewers whose relations a timeline server keeps."""
    purge_poll_ms: Annotated[int, Field(ge=10, le=1_000)] = 250
    """How often a server asks what its caches must forget."""
    drain_delay_s: Annotated[float, Field(ge=0, le=60)] = 0.6
    """How long a stopping server reports NOT_SERVING before it takes no more calls; longer than
    the gateway's health-check interval times its threshold."""
    drain_grace_s: Annotated[float, Field(ge=0, le=300)] = 5.0
    """How long a stopping server lets running calls finish."""

    def rate(self, kind: Kind) -> Limit:
        """How often one account, or for sign-in one address, may do something."""
        return Limit.parse(getattr(self, f"rate_{kind.value}"))

    @property
    def trend_rules(self) -> Rules:
        """What may trend, and how surprise is measured."""
        return Rules(
            authors_min=self.trend_authors_min,
            place_tags_min=self.trend_place_tags_min,
            statistic=Statistic(self.trend_statistic),
            surprise_min=self.trend_surprise_min,
            baseline_min=self.trend_baseline_min,
            overdispersion=self.trend_overdispersion,
        )

    @model_validator(mode="after")
    def _tiers_are_in_order(self) -> "Settings":
        if self.celebrity_followers < self.influencer_followers:
            raise ValueError("CHIRP_CELEBRITY_FOLLOWERS is below CHIRP_INFLUENCER_FOLLOWERS")
        return self

    @model_validator(mode="after")
    def _resume_tokens_outlive_a_lost_log(self) -> "Settings":
        if self.stream_resume_hours > self.outbox_keep_hours:
            raise ValueError("CHIRP_STREAM_RESUME_HOURS is over CHIRP_OUTBOX_KEEP_HOURS")
        return self


def load() -> Settings:
    """Parses the environment; exits with one clear line where a value is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        wrong = "; ".join(
            f"CHIRP_{'_'.join(str(part) for part in issue['loc']).upper()}: {issue['msg']}"
            if issue["loc"]
            else issue["msg"]
            for issue in error.errors()
        )
        raise SystemExit(f"chirp: wrong setting: {wrong}") from None
