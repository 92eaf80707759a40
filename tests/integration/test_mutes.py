import grpc
from chirp.v1 import events_pb2, graph_pb2

from mesh.settings import Settings
from servers import graph_server
from storage import valkey
from storage.timelines import TimelineStore, WindowKind
from tests.integration.accounts import Accounts, open_accounts
from tests.integration.conftest import Serve
from tests.refused import failure


async def test_mute_shows_to_the_muter_alone_and_keeps_the_follows(accounts: Accounts) -> None:
    ada, grace = await accounts.insert(2)
    await accounts.follow(ada, grace)
    await accounts.follow(grace, ada)

    answer = await accounts.mute(ada, grace)

    assert (answer.muted, answer.blocked, answer.following) == (True, False, True)
    seen = await accounts.seen(ada, grace)
    assert (seen.muted, seen.following) == (False, True)
    assert not (await accounts.unmute(ada, grace)).muted


async def test_mute_and_unmute_are_told_under_the_muters_key(accounts: Accounts) -> None:
    ada, grace = await accounts.insert(2)

    await accounts.mute(ada, grace)
    await accounts.unmute(ada, grace)

    (muted_key, muted), (unmuted_key, unmuted) = await accounts.events()
    assert muted_key == unmuted_key == ada.id
    assert muted.user_muted == events_pb2.UserMuted(user_id=ada.id, other_id=grace.id)
    assert unmuted.user_unmuted == events_pb2.UserUnmuted(user_id=ada.id, other_id=grace.id)
    assert await accounts.purged_viewers() == [ada.id, ada.id]


async def test_muting_twice_and_unmuting_twice_change_and_tell_nothing(accounts: Accounts) -> None:
    ada, grace = await accounts.insert(2)

    for call, muted in ((accounts.mute, True), (accounts.unmute, False)):
        await call(ada, grace)
        once = await accounts.contents()
        assert (await call(ada, grace)).muted == muted
        assert await accounts.contents() == once


async def test_muted_account_can_still_be_followed_and_blocked(accounts: Accounts) -> None:
    ada, grace = await accounts.insert(2)
    await accounts.mute(ada, grace)

    assert (await accounts.follow(ada, grace)).following
    assert (await accounts.follow(grace, ada)).following
    blocked = await accounts.block(ada, grace)

    # A mute outlives a block and its end.
    assert (blocked.blocked, blocked.muted) == (True, True)
    assert (await accounts.unblock(ada, grace)).muted


async def test_mute_and_unmute_drop_the_muters_timeline_alone(accounts: Accounts) -> None:
    ada, grace = await accounts.insert(2)
    async with valkey.connect(accounts.settings.valkey_url, accounts.settings) as cache:
        keys = TimelineStore(cache, accounts.settings).keys
        own = keys.window(WindowKind.TIMELINE, ada.id)
        other = keys.window(WindowKind.TIMELINE, grace.id)
        await cache.set(other, b"anything")
        for call in (accounts.mute, accounts.unmute):
            await cache.set(own, b"anything")

            await call(ada, grace)

            assert await cache.exists(own) == 0
        assert await cache.exists(other) == 1


async def test_mute_succeeds_while_the_cache_is_away(settings: Settings, serve: Serve) -> None:
    away = settings.model_copy(update={"valkey_url": "redis://127.0.0.1:1/0"})
    channel = await serve(lambda _: graph_server.open_process(away))
    async with open_accounts(settings, channel) as accounts:
        ada, grace = await accounts.insert(2)

        assert (await accounts.mute(ada, grace)).muted


async def test_muting_and_unmuting_oneself_is_refused(accounts: Accounts) -> None:
    (ada,) = await accounts.insert()
    before = await accounts.contents()

    for call in (accounts.mute, accounts.unmute):
        refused = await failure(call(ada, ada))
        assert refused.code == grpc.StatusCode.INVALID_ARGUMENT
        assert (refused.reason, refused.fields) == ("SELF_MUTE", ["id"])

    assert await accounts.contents() == before


async def test_lists_show_whom_the_caller_blocks_and_mutes(accounts: Accounts) -> None:
    star, muted, blocked, neither = await accounts.insert(4)
    viewer = (await accounts.insert())[0]
    for fan in (muted, blocked, neither):
        await accounts.follow(fan, star)
    await accounts.mute(viewer, muted)
    await accounts.block(viewer, blocked)

    page = await accounts.graph.ListFollowers(
        graph_pb2.ListFollowersRequest(id=star.id), metadata=viewer.metadata
    )

    assert {user.id: (user.blocked, user.muted) for user in page.users} == {
        muted.id: (False, True),
        blocked.id: (True, False),
        neither.id: (False, False),
    }
