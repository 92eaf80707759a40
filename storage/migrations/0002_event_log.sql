-- What the relay knows of the event log: one row, so that it commits with the marks of the outbox.
CREATE TABLE event_log (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    fence     bigint NOT NULL DEFAULT 0,        -- of the relay that leads; a lower one is refused
    tail      text NOT NULL DEFAULT '',         -- how far the log reached at the last mark
    refilling boolean NOT NULL DEFAULT true,    -- the log starts over: mark rows as unsent, then send
    refill_to bigint NOT NULL DEFAULT 0         -- ids up to here go no faster than consumers read
);

INSERT INTO event_log DEFAULT VALUES;

-- Every row is marked once and deleted once: without a frequent vacuum, the search for unsent rows
-- would walk over the dead entries of sent ones.
ALTER TABLE outbox SET (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0.2
);
