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
