-- Blocks, mutes and the history of tiers belong to graph_server.

CREATE TABLE blocks (
    blocker_id bigint NOT NULL REFERENCES users (id),
    blocked_id bigint NOT NULL REFERENCES users (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (blocker_id, blocked_id),
    CHECK (blocker_id <> blocked_id)
);

CREATE INDEX blocks_by_blocked ON blocks (blocked_id, blocker_id);

CREATE TABLE mutes (
    muter_id   bigint NOT NULL REFERENCES users (id),
    muted_id   bigint NOT NULL REFERENCES users (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (muter_id, muted_id),
    CHECK (muter_id <> muted_id)
);

-- One row for each crossing of a line.
CREATE TABLE tier_changes (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id        bigint NOT NULL REFERENCES users (id),
    from_tier      smallint NOT NULL,
    to_tier        smallint NOT NULL,
    follower_count bigint NOT NULL,
    changed_at     timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX tier_changes_by_user ON tier_changes (user_id, id DESC);

-- Tiers are pushed (1), pulled (2), or pushed to active followers (3): storage reads recents of 2.
CREATE INDEX tweets_pulled_by_author ON tweets (author_id, id DESC)
    WHERE delivery = 2 AND deleted_at IS NULL;
