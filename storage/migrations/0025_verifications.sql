-- One row for each `chirp verify`: how many home timelines it compared with the oracle, and how many
-- of them differed before it repaired any.
CREATE TABLE timeline_verifications (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    compared    integer NOT NULL,
    differing   integer NOT NULL,
    finished_at timestamptz NOT NULL DEFAULT now()
);
