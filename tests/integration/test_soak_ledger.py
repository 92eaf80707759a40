"""What the soak finds in the rows."""

from collections.abc import AsyncGenerator

import pytest_asyncio

from mesh.settings import Settings
from storage import database
from storage.database import Connection
from tests.soak import ledger
from tests.soak.model import Model, Outcome, Relation

ADA, BOB = 1, 2


@pytest_asyncio.fixture
async def connection(settings: Settings) -> AsyncGenerator[Connection]:
    async with database.open_pool(settings, size_max=1) as pool, pool.connection() as opened:
        for user, name in ((ADA, "ada"), (BOB, "bob")):
            await opened.execute(
                "INSERT INTO users (id, username, display_name) VALUES (%s, %s, %s)",
                (user, name, name),
            )
        yield opened


async def post(connection: Connection, tweet: int, *, original: int | None = None) -> None:
    await connection.execute(
        "INSERT INTO tweets (id, author_id, content, conversation_id, delivery, created_at,"
        " retweet_of, original_author_id) VALUES (%s, 1, 'x', %s, 1, now(), %s, %s)",
        (tweet, tweet, original, ADA if original else None),
    )


def known(relation: Relation, value: bool) -> Model:
    model = Model()
    model.begin(relation, value)
    model.end(relation, Outcome.DONE, value, 1.0)
    return model


async def test_relations_that_were_acknowledged_are_looked_for(connection: Connection):
    await post(connection, 7)
    await post(connection, 8, original=7)
    await connection.execute("INSERT INTO follows VALUES (1, 2, 1)")
    await connection.execute("INSERT INTO mutes VALUES (1, 2)")
    await connection.execute("INSERT INTO likes (user_id, tweet_id, id) VALUES (1, 7, 1)")

    for relation in (
        ("follow", ADA, BOB),
        ("mute", ADA, BOB),
        ("like", ADA, 7),
        ("retweet", ADA, 7),
    ):
        assert await ledger.lost_writes(connection, known(relation, True)) == []
        assert len(await ledger.lost_writes(connection, known(relation, False))) == 1
    for relation in (
        ("follow", BOB, ADA),
        ("mute", BOB, ADA),
        ("like", BOB, 7),
        ("retweet", BOB, 7),
    ):
        assert await ledger.lost_writes(connection, known(relation, False)) == []
        assert len(await ledger.lost_writes(connection, known(relation, True))) == 1
    block = await ledger.lost_writes(connection, known(("block", ADA, BOB), True))
    assert block == ["('follow', 1, 2) should be False", "('block', 1, 2) should be True"]


async def test_posts_and_deletions_that_were_acknowledged_are_looked_for(connection: Connection):
    await post(connection, 7)
    await post(connection, 8)
    await connection.execute("UPDATE tweets SET deleted_at = now() WHERE id = 8")

    good = Model(authors={7: ADA, 8: ADA}, deleting={8}, deleted={8: 1.0})
    bad = Model(authors={7: ADA, 8: ADA, 9: ADA}, deleting={7}, deleted={7: 1.0})

    assert await ledger.lost_writes(connection, good) == []
    assert await ledger.lost_writes(connection, bad) == [
        "tweet 7 of 1 was deleted and is there",
        "tweet 8 of 1 is deleted, though nobody did it",
        "tweet 9 of 1 is not there",
    ]


async def test_counts_that_are_no_recount_are_told(connection: Connection):
    await post(connection, 7)
    await connection.execute("UPDATE users SET tweet_count = 1 WHERE id = 1")
    assert await ledger.wrong_counts(connection, [ADA, BOB]) == []

    await connection.execute("UPDATE users SET follower_count = 3, tweet_count = 2 WHERE id = 2")
    await connection.execute("UPDATE tweets SET like_count = 1, quote_count = 1")

    wrong = await ledger.wrong_counts(connection, [ADA, BOB])
    assert [text.split(" of ")[1] for text in wrong] == ["followers", "tweets", "likes", "quotes"]
    assert "[2]" in wrong[0]
    assert "[7]" in wrong[2]
