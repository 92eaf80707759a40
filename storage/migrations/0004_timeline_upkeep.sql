-- What operators did to materialised timelines, by `chirp verify --repair` and `chirp rebuild`.

-- One row for each home timeline that differed from the oracle and was made anew.
CREATE TABLE timeline_repairs (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id     bigint NOT NULL,
    missing     integer NOT NULL,                     -- entries that it lacked
    extra       integer NOT NULL,                     -- entries that it had and should not have
    mended      boolean NOT NULL,                     -- whether it equalled the oracle afterwards
    repaired_at timestamptz NOT NULL DEFAULT now()
);

-- One row for each `chirp rebuild --all`; one that was stopped goes on behind its position.
CREATE TABLE timeline_rebuilds (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    position    bigint NOT NULL DEFAULT 0,            -- every account up to this id is done
    rebuilt     bigint NOT NULL DEFAULT 0,            -- timelines that were made anew
    started_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);

CREATE UNIQUE INDEX timeline_rebuilds_one_at_a_time ON timeline_rebuilds ((true))
    WHERE finished_at IS NULL;
