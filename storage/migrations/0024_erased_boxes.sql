-- Notifications of accounts that were deleted: nothing goes into their boxes any more.
ALTER TABLE notification_boxes
    ADD COLUMN erasure smallint NOT NULL DEFAULT 0;   -- 1: to be emptied, 2: empty, for ever

CREATE INDEX notification_boxes_to_empty ON notification_boxes (user_id) WHERE erasure = 1;
