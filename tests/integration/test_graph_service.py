import asyncio

import grpc
from chirp.v1 import graph_pb2, user_pb2

from mesh.settings import Settings
from servers import graph_server
from storage import valkey
from storage.timelines import TimelineStore, WindowKind
from tests.integration.accounts import Account, Accounts, open_accounts
from tests.integration.conftest import Serve
from tests.refused import failure


async def counts(accounts: Accounts, account: Account) -> tuple[int, int]:
    user = await accounts.users.GetUser(user_pb2.GetUserRequest(id=account.id))
    return user.follower_count, user.following_count


async def assert_counts_equal_a_recount(accounts: Accounts) -> None:
    wrong = await accounts.rows(
        "SELECT * FROM users u WHERE follower_count <>"
        " (SELECT count(*) FROM follows WHERE followee_id = u.id) OR following_count <>"
        " (SELECT count(*) FROM follows WHERE follower_id = u.id)"
    )
    assert wrong == []


async def test_follow_counts_on_both_sides_and_shows_the_relation(accounts: Accounts) -> None:
    ada, grace = await accounts.insert(2)

    answer = await accounts.follow(ada, grace)

    assert (answer.id, answer.follower_count, answer.following) == (grace.id, 1, True)
    assert not answer.followed_by
    seen = await accounts.seen(ada, grace)
    assert (seen.followed_by, seen.following, seen.following_count) == (True, False, 1)
    assert await accounts.purged_viewers() == [ada.id]
    ((key, event),) = await accounts.events()
    assert key == event.user_followed.followee_id == grace.id
    assert event.user_followed.follower_id == ada.id


async def test_following_twice_and_unfollowing_twice_change_and_tell_nothing(
    accounts: Accounts,
) -> None:
    ada, grace = await accounts.insert(2)

    await accounts.follow(ada, grace)
    followed = await accounts.contents()
    again = await accounts.follow(ada, grace)
    assert await accounts.contents() == followed
    assert again.follower_count == 1

    await accounts.unfollow(ada, grace)
    unfollowed = await accounts.contents()
    again = await accounts.unfollow(ada, grace)
    assert await accounts.contents() == unfollowed
    assert (again.follower_count, again.following) == (0, False)

    kinds = [event.WhichOneof("kind") for _, event in await accounts.events()]
    assert kinds == ["user_followed", "user_unfollowed"]


async def test_many_new_followers_at_once_are_all_counted(accounts: Accounts) -> None:
    star, *fans = await accounts.insert(41)

    await asyncio.gather(*(accounts.follow(fan, star) for fan in fans))

    assert await counts(accounts, star) == (40, 0)
    await assert_counts_equal_a_recount(accounts)


async def test_lists_are_newest_first_and_complete_over_pages(accounts: Accounts) -> None:
    star, *fans = await accounts.insert(8)
    for fan in fans:
        await accounts.follow(fan, star)
        await accounts.follow(star, fan)
    newest_first = [fan.id for fan in reversed(fans)]

    for limit in (1, 3, 7, 8, 100, 1_000):
        followers: list[int] = []
        request = graph_pb2.ListFollowersRequest(id=star.id, limit=limit)
        while True:
            page = await accounts.graph.ListFollowers(request)
            followers += [user.id for user in page.users]
            assert page.has_more == bool(page.next_cursor) == (len(followers) < len(fans))
            if not page.has_more:
                break
            assert len(page.users) == limit
            request.cursor = page.next_cursor
        assert followers == newest_first

    following = await accounts.graph.ListFollowing(graph_pb2.ListFollowingRequest(id=star.id))
    assert [user.id for user in following.users] == newest_first
    assert (following.has_more, following.next_cursor) == (False, "")


async def test_follows_that_arrive_between_pages_leave_no_gap_and_repeat_nothing(
    accounts: Accounts,
) -> None:
    star, *fans = await accounts.insert(9)
    for fan in fans[:6]:
        await accounts.follow(fan, star)

    first = await accounts.graph.ListFollowers(graph_pb2.ListFollowersRequest(id=star.id, limit=3))
    for fan in fans[6:]:
        await accounts.follow(fan, star)
    second = await accounts.graph.ListFollowers(
        graph_pb2.ListFollowersRequest(id=star.id, limit=3, cursor=first.next_cursor)
    )

    seen = [user.id for user in (*first.users, *second.users)]
    assert seen == [fan.id for fan in reversed(fans[:6])]
    assert not second.has_more


async def test_default_page_has_twenty_and_the_largest_a_hundred(accounts: Accounts) -> None:
    star, *fans = await accounts.insert(103)
    async with accounts.pool.connection() as connection:
        for fan in fans:
            await connection.execute(
                "INSERT INTO follows (id, follower_id, followee_id) VALUES (%s, %s, %s)",
                (fan.id, fan.id, star.id),
            )

    page = await accounts.graph.ListFollowers(graph_pb2.ListFollowersRequest(id=star.id))
    large = await accounts.graph.ListFollowers(
        graph_pb2.ListFollowersRequest(id=star.id, limit=101)
    )

    assert (len(page.users), page.has_more) == (20, True)
    assert (len(large.users), large.has_more) == (100, True)


async def test_lists_show_how_the_caller_stands_to_each(accounts: Accounts) -> None:
    star, friend, stranger = await accounts.insert(3)
    await accounts.follow(friend, star)
    await accounts.follow(stranger, star)
    await accounts.follow(star, friend)

    page = await accounts.graph.ListFollowers(
        graph_pb2.ListFollowersRequest(id=star.id), metadata=star.metadata
    )

    relations = {user.id: (user.following, user.followed_by) for user in page.users}
    assert relations == {friend.id: (True, True), stranger.id: (False, True)}


async def test_following_and_unfollowing_oneself_is_refused(accounts: Accounts) -> None:
    (ada,) = await accounts.insert()
    before = await accounts.contents()

    for call in (accounts.follow, accounts.unfollow):
        refused = await failure(call(ada, ada))
        assert refused.code == grpc.StatusCode.INVALID_ARGUMENT
        assert (refused.reason, refused.fields) == ("SELF_FOLLOW", ["id"])

    assert await accounts.contents() == before


async def test_follow_and_unfollow_drop_the_followers_timeline(accounts: Accounts) -> None:
    ada, grace = await accounts.insert(2)
    async with valkey.connect(accounts.settings.valkey_url, accounts.settings) as cache:
        keys = TimelineStore(cache, accounts.settings).keys
        timeline = keys.window(WindowKind.TIMELINE, ada.id)
        for call in (accounts.follow, accounts.unfollow):
            await cache.set(timeline, b"anything")

            await call(ada, grace)

            assert await cache.exists(timeline) == 0


async def test_follow_succeeds_while_the_cache_is_away(settings: Settings, serve: Serve) -> None:
    away = settings.model_copy(update={"valkey_url": "redis://127.0.0.1:1/0"})
    channel = await serve(lambda _: graph_server.open_process(away))
    async with open_accounts(settings, channel) as accounts:
        ada, grace = await accounts.insert(2)

        answer = await accounts.follow(ada, grace)

        assert answer.following
        assert len(await accounts.events()) == 1
