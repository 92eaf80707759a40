"""Every setting of every process, parsed once from the environment (`CHIRP_*`).

`chirp up` sets the addresses of what it starts; with outside services, set them yourself. A wrong
value stops a process at start with one line that names it.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Port = Annotated[int, Field(ge=1, le=65535)]


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
    keys: Path = Path(".chirp/keys")
    """The folder with private.pem (graph_server and the command line only), jwks.json, and
    service.jwt, the token by which Chirp's services know each other."""

    # Outside services
    database_url: str = "postgresql://chirp@127.0.0.1:5432/chirp"
    """PostgreSQL, the truth."""
    valkey_url: str = "redis://127.0.0.1:6379/0"
    """Valkey for caches and timelines; may evict, may lose everything."""
    eventlog_url: str = "redis://127.0.0.1:6380/0"
    """Valkey for the event log; must not evict, keeps an append-only file."""

    # Where the other servers are: gRPC targets such as dns:///tweet-server:50051
    tweet_target: str = "dns:///127.0.0.1:50051"
    """TweetService and TweetRecordService."""
    graph_target: str = "dns:///127.0.0.1:50052"
    """UserService, UserDirectoryService and GraphService."""
    timeline_target: str = "dns:///127.0.0.1:50053"
    """TimelineService."""

    # Identity
    token_issuer: str = "chirp"  # noqa: S105 - a name, no secret
    """`iss` of the tokens."""
    token_audience: str = "chirp"  # noqa: S105 - likewise
    """`aud` of the tokens."""
    token_lifetime_s: Annotated[int, Field(ge=60, le=2_592_000)] = 86_400
    """How long an access token is good."""
    token_cache_max: Annotated[int, Field(ge=1)] = 100_000
    """Verified tokens kept by a server; the oldest is forgotten first."""

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
    influencer_followers: Annotated[int, Field(ge=1)] = 10_000
    """From so many followers on, an account's tweets are not pushed to all of them."""
    celebrity_followers: Annotated[int, Field(ge=1)] = 1_000_000
    """From so many followers on, an account's tweets are pulled by all of them."""
    tier_hysteresis: Annotated[float, Field(gt=0, le=1)] = 0.9
    """An account goes down a tier below this part of the line that it went up at."""
    pulled_merge_max: Annotated[int, Field(ge=1, le=1_000)] = 100
    """Pulled authors whose recent tweets are merged when a follower reads. The timeline of a viewer
    who follows more of them comes from PostgreSQL, which is then quicker, and as exact."""
    fanout_chunk_deliveries: Annotated[int, Field(ge=1, le=100_000)] = 400
    """What one call to Valkey may cost, counted in deliveries to the head of a timeline: about 1.5
    ms. Late, repeated and deleted entries and long follower lists count as more of them."""

    # Events
    eventlog_partitions: Annotated[int, Field(ge=1, le=1024)] = 16
    """Partitions of the event log; fixed for ever once the database is made."""
    eventlog_retention_records: Annotated[int, Field(ge=1_000)] = 500_000
    """Records kept in each partition, about; more are in the outbox for 24 hours."""
    lease_ms: Annotated[int, Field(ge=200, le=60_000)] = 3_000
    """A worker that is silent for so long loses its partitions."""
    consumer_batch: Annotated[int, Field(ge=1, le=10_000)] = 512
    """Records that a consumer takes at once."""
    deadletters_max: Annotated[int, Field(ge=1)] = 1_000
    """Dead letters kept by a consumer group; when they are full, it stops instead of losing one."""
    outbox_poll_ms: Annotated[int, Field(ge=1, le=10_000)] = 10
    """How long the relay rests when the outbox is empty."""
    outbox_keep_hours: Annotated[int, Field(ge=1)] = 24
    """How long sent events stay in the outbox, so that a lost log can be filled again."""

    # Limits
    database_pool_max: Annotated[int, Field(ge=1, le=1000)] = 8
    """Connections to PostgreSQL of one process."""
    database_timeout_s: Annotated[float, Field(gt=0)] = 5.0
    """Longest wait for a connection, and longest statement."""
    call_deadline_s: Annotated[float, Field(gt=0, le=60)] = 2.0
    """Longest wait of a server for another one."""
    valkey_timeout_s: Annotated[float, Field(gt=0)] = 0.5
    """Longest wait for Valkey before a call does without it."""
    concurrent_calls_max: Annotated[int, Field(ge=1)] = 1_000
    """Calls that a server works on at once; more are refused as OVERLOADED."""
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

    @model_validator(mode="after")
    def _tiers_are_in_order(self) -> "Settings":
        if self.celebrity_followers < self.influencer_followers:
            raise ValueError("CHIRP_CELEBRITY_FOLLOWERS is below CHIRP_INFLUENCER_FOLLOWERS")
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
