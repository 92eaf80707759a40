import asyncio
import itertools
import random
from collections.abc import AsyncGenerator, Awaitable

import grpc
import pytest_asyncio

from domain.tier import Thresholds, Tier, next_tier
from mesh.settings import Settings
from servers import graph_server
from tests.integration.accounts import Account, Accounts, open_accounts
from tests.integration.conftest import Serve

LINES = Thresholds(influencer=2, celebrity=4, hysteresis=0.9)


@pytest_asyncio.fixture
async def replicas(settings: Settings, serve: Serve) -> AsyncGenerator[tuple[Accounts, Accounts]]:
    """Two graph servers with tiers that a handful of people cross."""
    many = settings.model_copy(
        update={
            "database_pool_max": 12,
            "influencer_followers": LINES.influencer,
            "celebrity_followers": LINES.celebrity,
        }
    )
    one = await serve(lambda _: graph_server.open_process(many))
    other = await serve(lambda _: graph_server.open_process(many))
    async with open_accounts(settings, one) as first, open_accounts(settings, other) as second:
        yield first, second


async def pairs(accounts: Accounts, statement: str) -> set[tuple[int, int]]:
    return {(row[0], row[1]) for row in await accounts.rows(statement)}


async def unless_blocked(call: Awaitable[object]) -> None:
    """Takes a refusal, but no deadlock and no outage."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.PERMISSION_DENIED:
            raise


async def assert_the_tables_agree(accounts: Accounts) -> None:
    wrong = await accounts.rows(
        "SELECT id FROM users u WHERE follower_count <>"
        " (SELECT count(*) FROM follows WHERE followee_id = u.id) OR following_count <>"
        " (SELECT count(*) FROM follows WHERE follower_id = u.id)"
    )
    beside = await accounts.rows(
        "SELECT * FROM follows JOIN blocks ON (blocker_id, blocked_id) IN"
        " ((follower_id, followee_id), (followee_id, follower_id))"
    )
    assert (wrong, beside) == ([], [])


async def assert_the_log_gives_the_tables(accounts: Accounts) -> None:
    """Every event changes something, and no follow stands beside a block at any time."""
    follows: set[tuple[int, int]] = set()
    blocks: set[tuple[int, int]] = set()
    mutes: set[tuple[int, int]] = set()
    for key, event in await accounts.events():
        kind = event.WhichOneof("kind")
        assert kind is not None
        if kind in ("user_followed", "user_unfollowed"):
            follow = getattr(event, kind)
            pair, table = (follow.follower_id, follow.followee_id), follows
            assert key == follow.followee_id
        else:
            relation = getattr(event, kind)
            pair = (relation.user_id, relation.other_id)
            table = mutes if "mute" in kind else blocks
            assert key == relation.user_id
        if kind in ("user_followed", "user_blocked", "user_muted"):
            assert pair not in table
            table.add(pair)
        else:
            table.remove(pair)
        assert not follows & blocks
        assert not follows & {(blocked, blocker) for blocker, blocked in blocks}
    assert follows == await pairs(accounts, "SELECT follower_id, followee_id FROM follows")
    assert blocks == await pairs(accounts, "SELECT blocker_id, blocked_id FROM blocks")
    assert mutes == await pairs(accounts, "SELECT muter_id, muted_id FROM mutes")


async def assert_the_history_gives_the_tiers(accounts: Accounts) -> int:
    tiers: dict[int, int] = {}
    changes = await accounts.rows(
        "SELECT user_id, from_tier, to_tier, follower_count FROM tier_changes ORDER BY id"
    )
    for user, before, after, followers in changes:
        assert before == tiers.get(user, Tier.NORMAL)
        assert after == next_tier(Tier(before), followers, LINES) != before
        tiers[user] = after
    for user, tier in await accounts.rows("SELECT id, tier FROM users"):
        assert tier == tiers.get(user, Tier.NORMAL)
    return len(changes)


async def test_all_changes_at_once_keep_counts_tiers_and_log_right(
    replicas: tuple[Accounts, Accounts],
) -> None:
    first, second = replicas
    people = await first.insert(6)
    chance = random.Random(11)

    async def client(accounts: Accounts) -> None:
        others = [
            accounts.unfollow,
            accounts.block,
            accounts.unblock,
            accounts.mute,
            accounts.unmute,
        ]
        for _ in range(25):
            one, other = chance.sample(people, 2)
            if chance.random() < 0.5:
                await unless_blocked(accounts.follow(one, other))
            else:
                (call,) = chance.choices(others, weights=(1, 1, 3, 1, 1))
                await call(one, other)

    await asyncio.gather(*(client(replicas[number % 2]) for number in range(24)))

    await assert_the_tables_agree(first)
    await assert_the_log_gives_the_tables(second)
    assert await assert_the_history_gives_the_tiers(first) > 20
    kinds = {event.WhichOneof("kind") for _, event in await first.events()}
    assert len(kinds) == 6


async def test_follow_and_block_at_once_never_end_with_both(
    replicas: tuple[Accounts, Accounts],
) -> None:
    first, second = replicas
    people = await first.insert(8)
    meetings = list(itertools.combinations(people, 2))

    async def meet(one: Account, other: Account) -> None:
        # Whichever is first: the block ends the follow, or refuses it.
        await asyncio.gather(
            unless_blocked(first.follow(one, other)),
            second.block(one, other),
            unless_blocked(second.follow(other, one)),
        )

    await asyncio.gather(*(meet(one, other) for one, other in meetings))

    assert await first.rows("SELECT * FROM follows") == []
    assert len(await first.rows("SELECT * FROM blocks")) == len(meetings)
    await assert_the_tables_agree(first)
    await assert_the_log_gives_the_tables(first)
    await assert_the_history_gives_the_tiers(first)


async def test_the_same_block_from_many_clients_at_once_is_told_once(
    replicas: tuple[Accounts, Accounts],
) -> None:
    first, second = replicas
    ada, grace = await first.insert(2)
    await first.follow(grace, ada)

    answers = await asyncio.gather(
        *(client.block(ada, grace) for client in (first, second) for _ in range(8))
    )

    assert all(answer.blocked and not answer.followed_by for answer in answers)
    kinds = [event.WhichOneof("kind") for _, event in await first.events()]
    assert kinds == ["user_followed", "user_unfollowed", "user_blocked"]
    await assert_the_tables_agree(first)
