import asyncio
import gzip
import lzma
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from rich.progress import Progress

from domain.ids import UserId
from mesh.settings import Settings
from ops import load_graph, load_tweets
from ops.inputs import BadInput
from ops.load_graph import graph_id
from storage import bulk, caches, database
from storage.timelines import WindowKind
from tests.integration.accounts import Account
from tests.world import World, open_world

GRAPH = "1,2\n1,3\n2,3\n4,3\n4,1\n"


@pytest.fixture(autouse=True)
def _no_settling(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    # What it waits for does not happen here: nothing is under way while a test loads.
    def nothing(settings: Settings) -> float:
        return 0.0

    monkeypatch.setattr(caches, "settle_s", nothing)


@pytest_asyncio.fixture
async def world(settings: Settings) -> AsyncGenerator[World]:
    async with open_world(settings) as opened:
        yield opened


async def load_follows(settings: Settings, path: Path, **options: Any) -> load_graph.Loaded:
    done = load_graph.Loaded()
    await load_graph.load(settings, path, Progress(disable=True), done, **options)
    return done


async def post_file(settings: Settings, path: Path, **options: Any) -> load_tweets.Posted:
    done = load_tweets.Posted()
    await load_tweets.load(settings, path, Progress(disable=True), done, **options)
    return done


async def rows(settings: Settings, statement: str) -> list[tuple[Any, ...]]:
    async with database.open_pool(settings, size_max=1) as pool, pool.connection() as connection:
        return await (await connection.execute(statement.encode())).fetchall()


async def counts(settings: Settings) -> list[tuple[Any, ...]]:
    return await rows(
        settings,
        "SELECT username, follower_count, following_count, tier FROM users ORDER BY id",
    )


def written(folder: Path, text: str, name: str = "file.csv") -> Path:
    path = folder / name
    if path.suffix == ".xz":
        path.write_bytes(lzma.compress(text.encode()))
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, newline="")
    return path


def account(world: World, number: int) -> Account:
    token = world.accounts.signer.sign_user(graph_id(number), 0, lifetime_s=600, now=time.time())
    return Account(graph_id(number), f"ego_{number}", token)


@pytest.mark.parametrize("name", ["graph.csv", "graph.csv.xz", "graph.csv.gz"])
@pytest.mark.parametrize("per_batch", [1, 2, 100])
async def test_a_graph_is_loaded_with_counts_and_tiers(
    settings: Settings, tmp_path: Path, name: str, per_batch: int
):
    few = settings.model_copy(update={"influencer_followers": 2, "celebrity_followers": 3})

    done = await load_follows(few, written(tmp_path, GRAPH, name), per_batch=per_batch)

    assert (done.lines, done.accounts, done.follows, done.tiers >= 1) == (5, 4, 5, True)
    assert await counts(settings) == [
        ("ego_1", 1, 2, 1),
        ("ego_2", 1, 1, 1),
        ("ego_3", 3, 0, 3),
        ("ego_4", 0, 2, 1),
    ]
    follows = await rows(settings, "SELECT follower_id, followee_id, id FROM follows ORDER BY id")
    assert [row[:2] for row in follows] == [
        (graph_id(1), graph_id(2)),
        (graph_id(1), graph_id(3)),
        (graph_id(2), graph_id(3)),
        (graph_id(4), graph_id(3)),
        (graph_id(4), graph_id(1)),
    ]
    assert len({row[2] for row in follows}) == 5
    crossings = await rows(
        settings, "SELECT user_id, from_tier, to_tier, follower_count FROM tier_changes ORDER BY id"
    )
    # Larger batches pass the lower line on the way.
    expected = [(1, 2, 2), (2, 3, 3)] if per_batch == 1 else [(1, 3, 3)]
    assert crossings == [(graph_id(3), *crossing) for crossing in expected]


async def test_a_follow_between_two_of_whom_one_blocks_the_other_is_left_out(
    settings: Settings, tmp_path: Path
):
    await load_follows(settings, written(tmp_path, "4,1\n", "first.csv"))
    async with database.open_pool(settings, size_max=1) as pool, pool.connection() as connection:
        await connection.execute("DELETE FROM follows")
        await connection.execute("UPDATE users SET follower_count = 0, following_count = 0")
        await connection.execute(
            "INSERT INTO blocks (blocker_id, blocked_id) VALUES (%s, %s)",
            (graph_id(1), graph_id(4)),
        )

    done = await load_follows(settings, written(tmp_path, GRAPH + "1,4\n"))

    assert done.follows == 4
    assert (await counts(settings))[0] == ("ego_1", 0, 2, 1)
    assert (await counts(settings))[3] == ("ego_4", 0, 1, 1)


async def test_loading_again_changes_nothing(settings: Settings, tmp_path: Path):
    graph = written(tmp_path, GRAPH + GRAPH)
    await load_follows(settings, graph)
    everything = "SELECT * FROM users FULL JOIN follows ON false ORDER BY 1, 16, 17"
    before = await rows(settings, everything)

    done = await load_follows(settings, graph, per_batch=3)

    assert (done.lines, done.accounts, done.follows, done.tiers) == (10, 0, 0, 0)
    assert await rows(settings, everything) == before


async def test_an_interrupted_load_is_finished_by_the_next(settings: Settings, tmp_path: Path):
    graph = written(tmp_path, "".join(f"{one},{one + 1}\n" for one in range(1, 1_001)))
    done = load_graph.Loaded()
    loading = asyncio.create_task(
        load_graph.load(settings, graph, Progress(disable=True), done, per_batch=20)
    )
    deadline = time.monotonic() + 20
    while not done.follows:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert done.follows < 1_000

    await load_follows(settings, graph)

    found = await counts(settings)
    assert len(found) == 1_001
    assert [row[1] for row in found] == [0] + [1] * 1_000
    assert [row[2] for row in found] == [1] * 1_000 + [0]


async def test_the_limit_is_a_number_of_lines(settings: Settings, tmp_path: Path):
    done = await load_follows(settings, written(tmp_path, GRAPH), limit=2)

    assert (done.lines, done.follows) == (2, 2)


async def test_tiers_follow_thresholds_that_were_changed(settings: Settings, tmp_path: Path):
    graph = written(tmp_path, GRAPH)
    await load_follows(settings, graph)

    few = settings.model_copy(update={"influencer_followers": 3, "celebrity_followers": 9})
    done = await load_follows(few, graph)

    assert done.tiers == 1
    assert (await counts(settings))[2] == ("ego_3", 3, 0, 2)


@pytest.mark.parametrize(
    "line", ["", "1", "1,2,3", "a,b", "1,1", "0,1", "1,0", "-1,2", "1,100000001", "1;2", "1,2.0"]
)
async def test_a_line_that_is_no_follow_is_named(settings: Settings, tmp_path: Path, line: str):
    with pytest.raises(BadInput, match="line 2"):
        await load_follows(settings, written(tmp_path, f"7,8\n{line}\n"), per_batch=1)

    assert len(await counts(settings)) == 2


async def test_a_damaged_file_is_an_error_of_the_file(settings: Settings, tmp_path: Path):
    path = tmp_path / "graph.csv.xz"
    path.write_bytes(lzma.compress(GRAPH.encode() * 1_000)[:-20])

    with pytest.raises(BadInput, match=r"graph\.csv\.xz"):
        await load_follows(settings, path)


async def test_a_username_that_somebody_else_has_stops_the_load(world: World, tmp_path: Path):
    await world.accounts.sign_up("Ego_2")

    with pytest.raises(LookupError, match="ego_2"):
        await load_follows(world.settings, written(tmp_path, GRAPH))

    assert len(await counts(world.settings)) == 1


async def test_a_running_stack_serves_a_graph_at_once(world: World, tmp_path: Path):
    await load_follows(world.settings, written(tmp_path, "1,2\n"))
    follower, author, newcomer = (account(world, number) for number in (1, 2, 3))
    await world.accounts.rows(
        "INSERT INTO users (id, username, display_name) VALUES (%s, 'ego_3', 'ego_3') RETURNING id",
        graph_id(3),
    )
    assert await world.home(follower) == await world.home(newcomer) == []
    earlier = await world.post(author)
    await world.drain()  # which loads the author's follower list, without the newcomer

    await load_follows(world.settings, written(tmp_path, "1,2\n3,2\n"))
    assert await world.home(newcomer) == await world.home(follower) == [earlier.id]
    later = await world.post(author)
    await world.drain()

    assert await world.home(newcomer) == await world.home(follower) == [later.id, earlier.id]
    listed = await world.cache.llen(  # pyright: ignore[reportGeneralTypeIssues]
        caches.Keys(world.settings.timeline_shards).window(WindowKind.TIMELINE, newcomer.id)
    )
    assert listed == 3  # both, and the mark of the beginning: it was pushed


CSV = (
    "created_at_ms,username,content\n"
    '1,News,"Fish &amp; chips: 5 &lt; 6"\n'
    '2,Anna,"two\nlines"\n'
    "3,News,again #news\n"
    "4,Carl,@News hello\n"
)


async def test_tweets_are_posted_by_the_most_followed_in_order_of_appearance(
    world: World, tmp_path: Path
):
    await load_follows(world.settings, written(tmp_path, GRAPH))

    done = await post_file(world.settings, written(tmp_path, CSV, "tweets.csv.xz"))

    assert (done.rows, done.already, done.posted, done.refused) == (4, 0, 4, 0)
    found = await rows(world.settings, "SELECT content, author_id FROM tweets ORDER BY content")
    assert found == [
        ("@News hello", graph_id(2)),
        ("Fish & chips: 5 < 6", graph_id(3)),
        ("again #news", graph_id(3)),
        ("two\nlines", graph_id(1)),
    ]
    await world.drain()
    for number in range(1, 5):
        viewer = account(world, number)
        assert await world.home(viewer) == await world.oracle(viewer)


async def test_posting_again_goes_on_where_it_stopped(world: World, tmp_path: Path):
    await load_follows(world.settings, written(tmp_path, GRAPH))
    tweets = written(tmp_path, CSV, "tweets.csv")

    first = await post_file(world.settings, tweets, limit=3)
    # Another order of the accounts, and the same file under another name.
    await world.follow(account(world, 3), account(world, 2))
    await world.follow(account(world, 1), account(world, 4))
    await world.follow(account(world, 2), account(world, 4))
    second = await post_file(world.settings, tweets.rename(tmp_path / "renamed.csv"))
    third = await post_file(world.settings, tmp_path / "renamed.csv")

    assert (first.posted, first.already) == (3, 0)
    assert (second.posted, second.already) == (1, 3)
    assert (third.posted, third.already) == (0, 4)
    assert await rows(world.settings, "SELECT count(*) FROM tweets") == [(4,)]


async def test_an_interrupted_posting_doubles_nothing(world: World, tmp_path: Path):
    await load_follows(world.settings, written(tmp_path, GRAPH))
    lines = "".join(f"user{number % 7},tweet {number}\n" for number in range(200))
    tweets = written(tmp_path, "username,content\n" + lines)
    done = load_tweets.Posted()
    posting = asyncio.create_task(
        load_tweets.load(world.settings, tweets, Progress(disable=True), done)
    )
    deadline = time.monotonic() + 20
    while done.posted < 10:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)
    posting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await posting

    await post_file(world.settings, tweets)

    assert await rows(world.settings, "SELECT count(*), count(DISTINCT content) FROM tweets") == [
        (200, 200)
    ]


async def test_few_accounts_can_speak_for_many(world: World, tmp_path: Path):
    await load_follows(world.settings, written(tmp_path, GRAPH))

    await post_file(world.settings, written(tmp_path, CSV), accounts_max=1)

    assert await rows(world.settings, "SELECT DISTINCT author_id FROM tweets") == [(graph_id(3),)]


async def test_a_rate_is_kept(world: World, tmp_path: Path):
    await load_follows(world.settings, written(tmp_path, GRAPH))

    done = await post_file(world.settings, written(tmp_path, CSV), rate=20)

    assert done.seconds >= 3 / 20


async def test_rows_that_no_tweet_can_be_are_told_and_left_out(world: World, tmp_path: Path):
    await load_follows(world.settings, written(tmp_path, GRAPH))
    tweets = written(tmp_path, f"username,content\nanna,fine\nanna,{'x' * 281}\nanna,\n")

    done = await post_file(world.settings, tweets)

    assert (done.posted, done.refused) == (1, 2)
    assert sorted(text.split(":")[0] for text in done.refusals) == ["row 2", "row 3"]


@pytest.mark.parametrize(
    "text", ["", "a,b\n1,2\n", "1,anna,hello\n", 'username,content\nanna,"x\n']
)
async def test_a_file_without_tweets_in_it_is_refused(world: World, tmp_path: Path, text: str):
    await load_follows(world.settings, written(tmp_path, GRAPH))

    with pytest.raises(BadInput):
        await post_file(world.settings, written(tmp_path, text, "tweets.csv"))


async def test_posting_without_a_graph_says_what_to_do(settings: Settings, tmp_path: Path):
    with pytest.raises(LookupError, match="--graph"):
        await post_file(settings, written(tmp_path, CSV))


async def test_a_server_that_stays_away_is_told_with_the_row(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(load_tweets, "RETRY_FIRST_S", 0.001)
    async with bulk.connect(settings) as connection:
        await connection.execute(
            "INSERT INTO users (id, username, display_name) VALUES (%s, 'ego_1', 'ego_1')",
            (UserId(graph_id(1)),),
        )
    nobody = settings.model_copy(update={"tweet_target": "dns:///127.0.0.1:1"})

    with pytest.raises(ConnectionError, match="row"):
        await post_file(nobody, written(tmp_path, CSV))
