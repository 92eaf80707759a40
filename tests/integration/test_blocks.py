import grpc
from chirp.v1 import events_pb2, graph_pb2, user_pb2

from mesh.settings import Settings
from servers import graph_server
from storage import valkey
from storage.timelines import TimelineStore, WindowKind
from tests.integration.accounts import Account, Accounts, open_accounts
from tests.integration.conftest import Serve
from tests.refused import failure


async def assert_counts(accounts: Accounts, account: Account, *, expected: tuple[int, int]) -> None:
    user = await accounts.users.GetUser(user_pb2.GetUserRequest(id=account.id))
    assert (user.follower_count, user.following_count) == expected


async def test_block_shows_to_the_blocker_alone(accounts: Accounts) -> None:
    ada, grace = await accounts.insert(2)

    answer = await accounts.block(ada, grace)

    assert (answer.id, answer.blocked, answer.muted) == (grace.id, True, False)
    assert not (await accounts.seen(ada, grace)).blocked
    anonymous = await accounts.users.GetUser(user_pb2.GetUserRequest(id=grace.id))
    assert not anonymous.HasField("blocked")
    assert not anonymous.HasField("muted")


async def test_block_ends_both_follows_in_one_transaction(accounts: Accounts) -> None:
    ada, grace, linus = await accounts.insert(3)
    for follower, followee in ((ada, grace), (grace, ada), (linus, ada), (ada, linus)):
        await accounts.follow(follower, followee)
    told = len(await accounts.events())

    answer = await accounts.block(ada, grace)

    assert (answer.following, answer.followed_by, answer.follower_count) == (False, False, 0)
    await assert_counts(accounts, ada, expected=(1, 1))
    await assert_counts(accounts, grace, expected=(0, 0))
    events = (await accounts.events())[told:]
    assert [(key, event.WhichOneof("kind")) for key, event in events] == [
        (grace.id, "user_unfollowed"),
        (ada.id, "user_unfollowed"),
        (ada.id, "user_blocked"),
    ]
    assert [event.user_unfollowed for _, event in events[:2]] == [
        events_pb2.UserUnfollowed(follower_id=ada.id, followee_id=grace.id),
        events_pb2.UserUnfollowed(follower_id=grace.id, followee_id=ada.id),
    ]
    assert events[2][1].user_blocked == events_pb2.UserBlocked(user_id=ada.id, other_id=grace.id)
    transactions = await accounts.rows("SELECT DISTINCT xmin::text FROM outbox WHERE id > %s", told)
    assert len(transactions) == 1


async def test_blocked_accounts_cannot_follow_each_other_in_either_direction(
    accounts: Accounts,
) -> None:
    ada, grace = await accounts.insert(2)
    await accounts.block(ada, grace)
    before = await accounts.contents()

    for follower, followee in ((ada, grace), (grace, ada)):
        refused = await failure(accounts.follow(follower, followee))
        assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "BLOCKED")
        assert refused.fields == []
        await accounts.unfollow(follower, followee)

    assert await accounts.contents() == before


async def test_unblock_allows_follows_again_but_brings_none_back(accounts: Accounts) -> None:
    ada, grace = await accounts.insert(2)
    await accounts.follow(grace, ada)
    await accounts.block(ada, grace)

    answer = await accounts.unblock(ada, grace)

    assert (answer.blocked, answer.following, answer.followed_by) == (False, False, False)
    assert (await accounts.follow(grace, ada)).following
    kind = (await accounts.events())[-2][1]
    assert kind.user_unblocked == events_pb2.UserUnblocked(user_id=ada.id, other_id=grace.id)


async def test_each_of_two_blocks_must_be_taken_back_by_its_own_blocker(
    accounts: Accounts,
) -> None:
    ada, grace = await accounts.insert(2)
    await accounts.block(ada, grace)
    await accounts.block(grace, ada)

    await accounts.unblock(ada, grace)
    assert (await failure(accounts.follow(ada, grace))).reason == "BLOCKED"
    assert (await failure(accounts.follow(grace, ada))).reason == "BLOCKED"
    await accounts.unblock(grace, ada)

    assert (await accounts.follow(ada, grace)).following


async def test_blocking_twice_and_unblocking_twice_change_and_tell_nothing(
    accounts: Accounts,
) -> None:
    ada, grace = await accounts.insert(2)
    await accounts.follow(ada, grace)

    for call, blocked in ((accounts.block, True), (accounts.unblock, False)):
        await call(ada, grace)
        once = await accounts.contents()
        assert (await call(ada, grace)).blocked == blocked
        assert await accounts.contents() == once


async def test_block_and_unblock_tell_caches_to_forget_both(accounts: Accounts) -> None:
    ada, grace = await accounts.insert(2)
    await accounts.follow(ada, grace)
    await accounts.follow(grace, ada)
    told = len(await accounts.purged_viewers())

    await accounts.block(ada, grace)
    await accounts.unblock(ada, grace)

    assert (await accounts.purged_viewers())[told:] == [ada.id, grace.id, ada.id, grace.id]


async def test_block_and_unblock_drop_the_timelines_of_both(accounts: Accounts) -> None:
    ada, grace = await accounts.insert(2)
    async with valkey.connect(accounts.settings.valkey_url, accounts.settings) as cache:
        keys = TimelineStore(cache, accounts.settings).keys
        held = [keys.window(WindowKind.TIMELINE, viewer.id) for viewer in (ada, grace)]
        held += [keys.viewer(viewer.id) for viewer in (ada, grace)]
        for call in (accounts.block, accounts.unblock):
            for key in held:
                await cache.set(key, b"anything")

            await call(ada, grace)

            assert await cache.exists(*held) == 0


async def test_block_succeeds_while_the_cache_is_away(settings: Settings, serve: Serve) -> None:
    away = settings.model_copy(update={"valkey_url": "redis://127.0.0.1:1/0"})
    channel = await serve(lambda _: graph_server.open_process(away))
    async with open_accounts(settings, channel) as accounts:
        ada, grace = await accounts.insert(2)

        assert (await accounts.block(ada, grace)).blocked
        assert len(await accounts.events()) == 1


async def test_blocking_and_unblocking_oneself_is_refused(accounts: Accounts) -> None:
    (ada,) = await accounts.insert()
    before = await accounts.contents()

    for call in (accounts.block, accounts.unblock):
        refused = await failure(call(ada, ada))
        assert refused.code == grpc.StatusCode.INVALID_ARGUMENT
        assert (refused.reason, refused.fields) == ("SELF_BLOCK", ["id"])

    assert await accounts.contents() == before


async def test_ended_session_changes_nothing_between_accounts(accounts: Accounts) -> None:
    ada, (grace,) = await accounts.sign_up(), await accounts.insert()
    await accounts.users.DeleteCurrentSession(
        user_pb2.DeleteCurrentSessionRequest(), metadata=ada.metadata
    )
    before = await accounts.contents()

    for call in (
        accounts.follow,
        accounts.unfollow,
        accounts.block,
        accounts.unblock,
        accounts.mute,
        accounts.unmute,
    ):
        assert (await failure(call(ada, grace))).code == grpc.StatusCode.UNAUTHENTICATED
    assert await accounts.contents() == before


async def test_what_is_public_stays_readable_to_the_blocked(accounts: Accounts) -> None:
    ada, grace, linus = await accounts.insert(3)
    await accounts.follow(linus, ada)
    await accounts.block(ada, grace)

    assert (await accounts.seen(ada, grace)).username == ada.username
    followers = await accounts.graph.ListFollowers(
        graph_pb2.ListFollowersRequest(id=ada.id), metadata=grace.metadata
    )
    assert [user.id for user in followers.users] == [linus.id]


async def test_services_are_told_of_blocks_in_both_directions_and_of_own_mutes(
    accounts: Accounts,
) -> None:
    ada, blocked, blocking, muted, muting, stranger = await accounts.insert(6)
    await accounts.block(ada, blocked)
    await accounts.block(blocking, ada)
    await accounts.mute(ada, muted)
    await accounts.mute(ada, blocked)
    await accounts.mute(muting, ada)
    await accounts.block(muted, muting)
    others = [blocked, blocking, muted, muting, stranger, blocked]

    answer = await accounts.block_directory.BatchGetBlocks(
        graph_pb2.BatchGetBlocksRequest(
            user_id=ada.id, other_ids=[*(other.id for other in others), ada.id, 7]
        ),
        metadata=accounts.service_metadata,
    )
    unasked = await accounts.block_directory.BatchGetBlocks(
        graph_pb2.BatchGetBlocksRequest(user_id=ada.id, other_ids=[stranger.id]),
        metadata=accounts.service_metadata,
    )

    assert sorted(answer.blocked_ids) == [blocked.id, blocking.id]
    assert sorted(answer.muted_ids) == [blocked.id, muted.id]
    assert unasked == graph_pb2.BatchGetBlocksResponse()


async def test_services_get_accounts_as_a_viewer_sees_them(accounts: Accounts) -> None:
    ada, grace, linus = await accounts.insert(3)
    await accounts.follow(linus, ada)
    await accounts.block(ada, grace)
    await accounts.mute(ada, linus)
    ids = [grace.id, linus.id, ada.id, 7, grace.id]

    answers = {
        viewer_id: await accounts.directory.BatchGetUsers(
            user_pb2.BatchGetUsersRequest(ids=ids, viewer_id=viewer_id),
            metadata=accounts.service_metadata,
        )
        for viewer_id in (ada.id, 0)
    }

    users = {user.id: user for user in answers[ada.id].users}
    assert sorted(users) == [ada.id, grace.id, linus.id]
    assert (users[grace.id].blocked, users[grace.id].muted) == (True, False)
    assert (users[linus.id].muted, users[linus.id].followed_by) == (True, True)
    for account in (grace, linus):
        assert users[account.id] == await accounts.seen(account, ada)
    anonymous = {user.id: user for user in answers[0].users}
    assert anonymous[grace.id] == await accounts.users.GetUser(user_pb2.GetUserRequest(id=grace.id))
