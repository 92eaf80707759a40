-- The schema of the two design documents. Tables of different owners bear no foreign keys to each
-- other: users, sessions and follows belong to graph_server; tweets and likes to tweet_server.

CREATE TABLE users (
    id                    bigint PRIMARY KEY,
    username              varchar(50) NOT NULL,
    display_name          varchar(100) NOT NULL,
    bio                   text NOT NULL DEFAULT '',
    location              text NOT NULL DEFAULT '',
    avatar_url            text NOT NULL DEFAULT '',
    password_hash         text,                       -- argon2id; null: signs in by `chirp token` only
    follower_count        bigint NOT NULL DEFAULT 0 CHECK (follower_count >= 0),
    following_count       bigint NOT NULL DEFAULT 0 CHECK (following_count >= 0),
    tweet_count           bigint NOT NULL DEFAULT 0 CHECK (tweet_count >= 0),
    tier                  smallint NOT NULL DEFAULT 1 CHECK (tier BETWEEN 1 AND 3),
    is_celebrity          boolean GENERATED ALWAYS AS (tier > 1) STORED,
    first_pulled_tweet_id bigint,                     -- null: nothing of this author is pulled
    created_at            timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 80);                             -- counts change in place (HOT)

CREATE UNIQUE INDEX users_by_username ON users (lower(username));
CREATE INDEX users_with_pulled_tweets ON users (id) WHERE first_pulled_tweet_id IS NOT NULL;

CREATE TABLE sessions (
    id         bigint PRIMARY KEY,
    user_id    bigint NOT NULL REFERENCES users (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    ended_at   timestamptz
);

CREATE INDEX sessions_by_user ON sessions (user_id) WHERE ended_at IS NULL;
CREATE INDEX sessions_by_expiry ON sessions (expires_at);

CREATE TABLE follows (
    follower_id bigint NOT NULL REFERENCES users (id),
    followee_id bigint NOT NULL REFERENCES users (id),
    id          bigint NOT NULL,                      -- a snowflake: the order of the lists
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (follower_id, followee_id),
    CHECK (follower_id <> followee_id)
);

CREATE INDEX follows_by_followee ON follows (followee_id, id DESC) INCLUDE (follower_id);
CREATE INDEX follows_by_follower ON follows (follower_id, id DESC) INCLUDE (followee_id);

CREATE TABLE tweets (
    id                  bigint PRIMARY KEY,
    author_id           bigint NOT NULL,
    content             varchar(280) NOT NULL,
    media_urls          text[] NOT NULL DEFAULT '{}',
    hashtags            text[] NOT NULL DEFAULT '{}',
    mentions            bigint[] NOT NULL DEFAULT '{}',
    reply_to            bigint,
    replied_author_id   bigint,                       -- kept for ever, also when the tweet goes
    retweet_of          bigint,
    original_author_id  bigint,
    quote_of            bigint,
    conversation_id     bigint NOT NULL,
    location            text NOT NULL DEFAULT '',
    like_count          integer NOT NULL DEFAULT 0 CHECK (like_count >= 0),
    retweet_count       integer NOT NULL DEFAULT 0 CHECK (retweet_count >= 0),
    reply_count         integer NOT NULL DEFAULT 0 CHECK (reply_count >= 0),
    quote_count         integer NOT NULL DEFAULT 0 CHECK (quote_count >= 0),
    delivery            smallint NOT NULL,            -- 1 pushed, 2 pulled; stamped at commit
    version             bigint NOT NULL DEFAULT 1,    -- rises with each change of the row
    request_id          varchar(64),
    created_at          timestamptz NOT NULL,
    deleted_at          timestamptz,
    CHECK ((reply_to IS NULL) = (replied_author_id IS NULL)),
    CHECK ((retweet_of IS NULL) = (original_author_id IS NULL))
) WITH (fillfactor = 90);

CREATE INDEX tweets_by_author ON tweets (author_id, id DESC) WHERE deleted_at IS NULL;
CREATE INDEX tweets_by_hashtag ON tweets USING gin (hashtags) WHERE hashtags <> '{}';
CREATE INDEX tweets_by_parent ON tweets (reply_to, id) WHERE reply_to IS NOT NULL;
CREATE INDEX tweets_by_original ON tweets (retweet_of, id) WHERE retweet_of IS NOT NULL;
CREATE UNIQUE INDEX tweets_by_request ON tweets (author_id, request_id) WHERE request_id IS NOT NULL;
CREATE UNIQUE INDEX tweets_one_retweet_each ON tweets (author_id, retweet_of)
    WHERE retweet_of IS NOT NULL AND deleted_at IS NULL;

CREATE TABLE likes (
    user_id    bigint NOT NULL,
    tweet_id   bigint NOT NULL REFERENCES tweets (id),
    id         bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, tweet_id)
);

CREATE INDEX likes_by_tweet ON likes (tweet_id, id DESC) INCLUDE (user_id);

-- Events, written in the transaction of the change; outbox_relay moves them to the event log.
-- What is unsent is what is not marked as sent: a sequence value taken early may commit late.
CREATE TABLE outbox (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    partition_key bigint NOT NULL,
    payload       bytea NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    sent_at       timestamptz
);

CREATE INDEX outbox_unsent ON outbox (id) WHERE sent_at IS NULL;
CREATE INDEX outbox_sent ON outbox (sent_at) WHERE sent_at IS NOT NULL;

-- What caches must forget. Servers poll it by transaction id, so that a late commit is not missed.
CREATE TABLE purges (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    xid        xid8 NOT NULL DEFAULT pg_current_xact_id(),
    kind       smallint NOT NULL,                     -- storage/purges.py names them
    subject_id bigint NOT NULL,
    version    bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX purges_by_xid ON purges (xid);
CREATE INDEX purges_by_age ON purges (created_at);

-- Who mints ids under which worker number. The high water outlives the process.
CREATE TABLE snowflake_workers (
    worker        smallint PRIMARY KEY,
    holder        text NOT NULL DEFAULT '',
    leased_until  timestamptz NOT NULL DEFAULT '-infinity',
    high_water_ms bigint NOT NULL DEFAULT 0
);

INSERT INTO snowflake_workers (worker) SELECT generate_series(0, 1023);

-- Facts that are fixed once the database is made, such as the number of shards.
CREATE TABLE deployment_facts (
    name  text PRIMARY KEY,
    value text NOT NULL
);
