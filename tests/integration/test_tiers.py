from collections.abc import AsyncGenerator

import pytest_asyncio

from mesh.settings import Settings
from servers import graph_server
from tests.integration.accounts import Account, Accounts, open_accounts
from tests.integration.conftest import Serve

NORMAL, INFLUENCER, CELEBRITY = 1, 2, 3


@pytest_asyncio.fixture
async def small(settings: Settings, serve: Serve) -> AsyncGenerator[Accounts]:
    """A graph server with lines at 10 and 12 followers; down at 9 and 11."""
    lines = settings.model_copy(update={"influencer_followers": 10, "celebrity_followers": 12})
    channel = await serve(lambda _: graph_server.open_process(lines))
    async with open_accounts(lines, channel) as accounts:
        yield accounts


async def history(accounts: Accounts, account: Account) -> list[tuple[int, int, int]]:
    rows = await accounts.rows(
        "SELECT from_tier, to_tier, follower_count FROM tier_changes WHERE user_id = %s"
        " ORDER BY id",
        account.id,
    )
    return [(int(row[0]), int(row[1]), int(row[2])) for row in rows]


async def test_tier_rises_at_its_line_and_falls_below_nine_tenths_of_it(small: Accounts) -> None:
    star, *fans = await small.insert(13)
    tiers: list[tuple[int, int]] = []

    for fan in fans:
        user = await small.follow(fan, star)
        tiers.append((user.follower_count, user.tier))
        assert user.is_celebrity == (user.tier > NORMAL)
    for fan in fans:
        user = await small.unfollow(fan, star)
        tiers.append((user.follower_count, user.tier))

    assert tiers[8:14] == [(9, 1), (10, 2), (11, 2), (12, 3), (11, 3), (10, 2)]
    assert tiers[14:16] == [(9, 2), (8, 1)]
    assert await history(small, star) == [
        (NORMAL, INFLUENCER, 10),
        (INFLUENCER, CELEBRITY, 12),
        (CELEBRITY, INFLUENCER, 10),
        (INFLUENCER, NORMAL, 8),
    ]


async def test_a_crossing_is_recorded_in_the_transaction_that_makes_it(small: Accounts) -> None:
    star, *fans = await small.insert(11)
    for fan in fans:
        await small.follow(fan, star)

    together = await small.rows(
        "SELECT count(*) FROM tier_changes JOIN outbox ON outbox.xmin = tier_changes.xmin"
        " JOIN users ON users.xmin = tier_changes.xmin AND users.id = tier_changes.user_id"
    )

    assert together == [(1,)]


async def test_account_that_hovers_at_a_line_does_not_flap(small: Accounts) -> None:
    star, *fans = await small.insert(11)
    for fan in fans:
        await small.follow(fan, star)

    for _ in range(3):
        assert (await small.unfollow(fans[0], star)).tier == INFLUENCER
        assert (await small.follow(fans[0], star)).tier == INFLUENCER

    assert await history(small, star) == [(NORMAL, INFLUENCER, 10)]


async def test_block_that_ends_a_follow_can_take_both_down_a_tier(small: Accounts) -> None:
    one, other, *fans = await small.insert(11)
    for star in (one, other):
        for fan in fans[:8]:
            await small.follow(fan, star)
    await small.follow(one, other)
    await small.follow(other, one)
    for star in (one, other):
        await small.follow(fans[8], star)
        assert (await small.unfollow(fans[8], star)).tier == INFLUENCER

    blocked = await small.block(one, other)

    assert (blocked.follower_count, blocked.tier) == (8, NORMAL)
    for star in (one, other):
        assert await history(small, star) == [(NORMAL, INFLUENCER, 10), (INFLUENCER, NORMAL, 8)]


async def test_what_changes_no_follow_changes_no_tier(small: Accounts) -> None:
    star, other, *fans = await small.insert(12)
    for fan in fans[:9]:
        await small.follow(fan, star)

    await small.follow(fans[0], star)
    await small.mute(other, star)
    await small.block(other, star)
    await small.unblock(other, star)

    assert await history(small, star) == []
