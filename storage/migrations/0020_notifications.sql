-- Notifications belong to notification_worker; notification_server writes only how far they were read.

-- One for each account that ever had a notification. Every change of its notifications holds this
-- row, so that places rise in the order of commits and the count of the unread is exact.
CREATE TABLE notification_boxes (
    user_id      bigint PRIMARY KEY,
    last_id      bigint NOT NULL DEFAULT 0,           -- the newest place that was given out
    read_to      bigint NOT NULL DEFAULT 0,           -- what stands here or below is read
    unread_count bigint NOT NULL DEFAULT 0 CHECK (unread_count >= 0),
    pruned_to    bigint NOT NULL DEFAULT 0            -- the newest place that was pruned by age
) WITH (fillfactor = 80);

-- What somebody is told: one row for likes or retweets of one tweet, one for all follows, one for
-- each mention, reply and quote.
CREATE TABLE notifications (
    recipient_id bigint NOT NULL,
    kind         smallint NOT NULL,                   -- domain/notification.py names them
    subject_id   bigint NOT NULL,                     -- a tweet; 0: follows
    first_id     bigint NOT NULL,                     -- the place of its first actor
    head_id      bigint NOT NULL DEFAULT 0,           -- of its newest actor that shows; 0: none does
    head_at      timestamptz,
    actor_count  bigint NOT NULL DEFAULT 0 CHECK (actor_count >= 0),
    gone         boolean NOT NULL DEFAULT false,      -- its tweet was deleted
    touched_at   timestamptz NOT NULL,                -- of the newest event that concerned it
    PRIMARY KEY (recipient_id, kind, subject_id)
);

CREATE INDEX notifications_by_head ON notifications (recipient_id, head_id DESC) INCLUDE (first_id)
    WHERE head_id > 0;
CREATE INDEX notifications_by_subject ON notifications (subject_id) WHERE subject_id > 0;
CREATE INDEX notifications_by_age ON notifications (touched_at);

-- Who did it. What was undone stays until its notification is pruned, so that an event that comes
-- again finds that a later one was here.
CREATE TABLE notification_actors (
    recipient_id bigint NOT NULL,
    kind         smallint NOT NULL,
    subject_id   bigint NOT NULL,
    actor_id     bigint NOT NULL,
    id           bigint NOT NULL,                     -- the place in the recipient's box
    sequence     bigint NOT NULL,                     -- of the event that it is by
    standing     boolean NOT NULL,                    -- false: undone
    hidden       boolean NOT NULL,                    -- blocked either way, or muted
    acted_at     timestamptz NOT NULL,
    PRIMARY KEY (recipient_id, kind, subject_id, actor_id)
);

CREATE INDEX notification_actors_shown
    ON notification_actors (recipient_id, kind, subject_id, id DESC) INCLUDE (actor_id, acted_at)
    WHERE standing AND NOT hidden;
CREATE INDEX notification_actors_by_pair ON notification_actors (recipient_id, actor_id);

-- Whose doings are not shown to whom, as the events say.
CREATE TABLE notification_relations (
    owner_id bigint NOT NULL,
    other_id bigint NOT NULL,
    kind     smallint NOT NULL,                       -- 1: blocks, 2: mutes
    standing boolean NOT NULL,
    sequence bigint NOT NULL,
    PRIMARY KEY (owner_id, other_id, kind)
);

-- What held before there were notifications; from here on the events tell.
INSERT INTO notification_relations (owner_id, other_id, kind, standing, sequence)
    SELECT blocker_id, blocked_id, 1, true, 0 FROM blocks
    UNION ALL SELECT muter_id, muted_id, 2, true, 0 FROM mutes;
