-- Accounts that people deleted. The row of the account stays, without a name or a word of theirs, so
-- that ids keep their meaning; what it made and did is taken away in many small transactions.

ALTER TABLE users ADD COLUMN erased_at timestamptz;   -- null: the account is there

-- What is left of them, a row for each in both, made in the transaction that hides everything. Each
-- owner takes away what is its own, and then the row. `steps`: so far; whose are fewest goes first.
CREATE TABLE relation_erasures (                      -- follows, blocks, mutes: graph_server
    user_id bigint PRIMARY KEY,
    steps   integer NOT NULL DEFAULT 0
);

CREATE TABLE tweet_erasures (                         -- tweets, retweets, likes: tweet_server
    user_id   bigint PRIMARY KEY,                     -- reads of tweets look here for their authors
    steps     integer NOT NULL DEFAULT 0,
    erased_at timestamptz NOT NULL DEFAULT now()
);

-- Names that had an owner are given to nobody else: who reads an old mention must not meet a
-- stranger under it. What is kept of a name is its hash.
CREATE TABLE reserved_usernames (
    name_hash   bytea PRIMARY KEY,                    -- SHA-256 of the name in lower case
    reserved_at timestamptz NOT NULL DEFAULT now()
);

-- Deleted tweets whose text is still there: an erasure empties those of its account.
CREATE INDEX tweets_deleted_with_content ON tweets (author_id)
    WHERE deleted_at IS NOT NULL AND content <> '';
