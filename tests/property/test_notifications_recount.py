"""Whatever happened, in whatever order its events were handled: what everybody is told equals what
plain SQL over likes, tweets, follows, blocks and mutes gives, every count equals a recount, and
replaying everything changes nothing."""

import asyncio
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from eventlog.scripts import stream_key
from mesh.settings import Settings
from tests.integration.accounts import Account
from tests.notified import Notified, Told, open_notified
from tests.world import allowed, open_world

PEOPLE = 4
PAGE = 3

# Kind, tweet and actor of everything that somebody is told, from the truth alone.
TRUTH = """
WITH hidden AS (
    SELECT blocked_id AS id FROM blocks WHERE blocker_id = %(me)s
    UNION SELECT blocker_id FROM blocks WHERE blocked_id = %(me)s
    UNION SELECT muted_id FROM mutes WHERE muter_id = %(me)s
),
living AS (SELECT * FROM tweets WHERE deleted_at IS NULL),
mine AS (SELECT id FROM living WHERE author_id = %(me)s),
done AS (
    SELECT 'LIKE' AS kind, tweet_id AS tweet, user_id AS actor FROM likes
    WHERE tweet_id IN (SELECT id FROM mine)
    UNION ALL SELECT 'RETWEET', retweet_of, author_id FROM living
    WHERE retweet_of IN (SELECT id FROM mine)
    UNION ALL SELECT 'FOLLOW', 0, follower_id FROM follows WHERE followee_id = %(me)s
    UNION ALL SELECT CASE
        WHEN replied_author_id = %(me)s THEN 'REPLY'
        WHEN (SELECT author_id FROM tweets AS q WHERE q.id = living.quote_of) = %(me)s THEN 'QUOTE'
        WHEN %(me)s = ANY(mentions) AND NOT id = ANY(%(refused)s::bigint[]) THEN 'MENTION' END,
        id, author_id FROM living WHERE retweet_of IS NULL
)
SELECT kind, tweet, count(*), array_agg(actor) FROM done
WHERE kind IS NOT NULL AND actor <> %(me)s AND actor NOT IN (SELECT id FROM hidden)
GROUP BY kind, tweet
"""

person = st.integers(0, PEOPLE - 1)
which = st.integers(0, 5)  # few, so that what is done is often undone
tweets_ = ("reply", "quote", "retweet", "undo retweet", "like", "like", "unlike")
people_ = ("mention", "follow", "unfollow", "block", "unblock", "mute", "unmute")
steps = st.one_of(
    st.tuples(st.just("post"), person, which),
    st.tuples(st.just("delete"), person, which),
    st.tuples(st.sampled_from(tweets_), person, which),
    st.tuples(st.sampled_from(tweets_), person, which),
    st.tuples(st.sampled_from(people_), person, person),
    st.tuples(st.just("mark"), person, which),
    st.tuples(st.sampled_from(("relay", "handle", "handle", "rewind")), person, which),
)


@dataclass
class History:
    notified: Notified
    people: list[Account]
    living: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    refused: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    """Person -> tweets that mentioned them while one blocked the other."""

    async def step(self, name: str, who: int, other: int) -> None:
        world, me = self.notified.world, self.people[who]
        match name:
            case "post":
                self.living.append((who, (await world.post(me)).id))
            case "mention":
                friend = self.people[other]
                tweet = await world.post(me, f"@{friend.username}")
                self.living.append((who, tweet.id))
                await self.note_refused(tweet.id, me, [friend.id])
            case "delete" if self.living:
                author, tweet_id = self.living.pop(other % len(self.living))
                await world.delete(self.people[author], tweet_id)
            case "reply" | "quote" if self.living:
                _, target = self.living[other % len(self.living)]
                text = f"@{self.people[(who + 1) % PEOPLE].username}" if other % 2 else "so"
                reply_to, quote_of = (target, 0) if name == "reply" else (0, target)
                tweet = await allowed(world.post(me, text, reply_to=reply_to, quote_of=quote_of))
                if tweet is not None:
                    self.living.append((who, tweet.id))
                    await self.note_refused(tweet.id, me, list(tweet.mentions))
            case "retweet" | "undo retweet" if self.living:
                _, target = self.living[other % len(self.living)]
                await allowed(world.retweet(me, target, undo=name == "undo retweet"))
            case "like" | "unlike" if self.living:
                _, target = self.living[other % len(self.living)]
                await allowed(world.like(me, target, undo=name == "unlike"))
            case "follow" if who != other:
                await allowed(world.follow(me, self.people[other]))
            case "unfollow" if who != other:
                await world.unfollow(me, self.people[other])
            case "block" | "unblock" if who != other:
                await world.block(me, self.people[other], undo=name == "unblock")
            case "mute" | "unmute" if who != other:
                await world.mute(me, self.people[other], undo=name == "unmute")
            case "mark":
                await self.mark(me, other)
            case "relay":
                await world.relay_all()
            case "handle":
                await self.notified.group.step(0)
            case "rewind":
                await self.notified.rewind()
            case _:
                pass

    async def note_refused(self, tweet: int, author: Account, mentions: list[int]) -> None:
        for mentioned in mentions:
            if await self.notified.world.accounts.rows(
                "SELECT FROM blocks WHERE (blocker_id, blocked_id) IN ((%s, %s), (%s, %s))",
                *(author.id, mentioned, mentioned, author.id),
            ):
                self.refused.setdefault(mentioned, []).append(tweet)

    async def mark(self, me: Account, which: int) -> None:
        before = await self.notified.all(me, limit=PAGE)
        if before:
            up_to = before[which % len(before)].id
            left = await self.notified.mark(me, up_to)
            assert left == sum(not each.read and each.id > up_to for each in before)

    async def truth(self, me: Account) -> set[Told]:
        async with self.notified.world.pool.connection() as connection:
            cursor = await connection.execute(
                TRUTH, {"me": me.id, "refused": self.refused.get(me.id, [])}
            )
            return {(row[0], row[1], row[2], frozenset(row[3])) for row in await cursor.fetchall()}

    async def check_all(self) -> None:
        for number, me in enumerate(self.people):
            found = await self.notified.all(me, limit=PAGE)
            told = await self.notified.told(me)
            assert set(told) == await self.truth(me), f"person {number}"
            assert len(set(told)) == len(told)
            ids = [each.id for each in found]
            assert ids == sorted(set(ids), reverse=True)
            assert await self.notified.unread(me) == sum(not each.read for each in found)
        await self.notified.check_counts()


def test_after_any_history_notifications_equal_the_truth(settings_sync: Settings):
    small = settings_sync.model_copy(update={"eventlog_partitions": 4, "consumer_batch": 8})
    with asyncio.Runner() as runner:
        world_context = open_world(small)
        world = runner.run(world_context.__aenter__())
        context = open_notified(world)
        notified = runner.run(context.__aenter__())
        try:

            @settings(
                max_examples=25,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            )
            @given(st.lists(steps, min_size=20, max_size=60))
            def histories(story: list[tuple[str, int, int]]) -> None:
                runner.run(play(notified, story))

            histories()
        finally:
            runner.run(context.__aexit__(None, None, None))
            runner.run(world_context.__aexit__(None, None, None))


async def play(notified: Notified, story: list[tuple[str, int, int]]) -> None:
    # What the stories before left in the log is drained, and need not be replayed again and again.
    for partition in range(notified.world.event_log.partitions):
        await notified.world.eventlog.xtrim(stream_key(partition), maxlen=0, approximate=False)
    history = History(notified, await notified.world.accounts.insert(PEOPLE))
    for step in story:
        note(str(step))
        await history.step(*step)
    await notified.drain()
    await history.check_all()
    before = await notified.dump()
    await notified.rewind()
    await notified.drain()
    assert await notified.dump() == before
