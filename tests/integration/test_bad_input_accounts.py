import grpc
from chirp.v1 import graph_pb2, user_pb2

from tests.integration.accounts import PASSWORD, Accounts, bearer
from tests.integration.bad_input import (
    LONG_URL,
    UNKNOWN_IDS,
    WRONG_IDS,
    WRONG_PAGES,
    assert_not_found,
    assert_refused,
)
from tests.refused import failure

CREATE_USER: list[tuple[str, dict[str, str]]] = [
    ("username", {"username": ""}),
    ("username", {"username": "ab"}),
    ("username", {"username": "a" * 51}),
    ("username", {"username": "with space"}),
    ("username", {"username": "m\u00fcller"}),
    ("username", {"username": "ada\n"}),
    ("username", {"username": "a\x00da"}),
    ("username", {"username": "\u0661\u0662\u0663"}),
    ("password", {"password": ""}),
    ("password", {"password": "1234567"}),
    ("password", {"password": "e\u0301" * 7}),
    ("password", {"password": "a" * 129}),
    ("password", {"password": "12345678\x00"}),
    ("displayName", {"display_name": "a" * 101}),
    ("displayName", {"display_name": "a\x00"}),
    ("displayName", {"display_name": "two\nlines"}),
    ("bio", {"bio": "a" * 501}),
    ("bio", {"bio": "a\x00"}),
    ("bio", {"bio": "a\x1b[31m"}),
    ("location", {"location": "US"}),
    ("location", {"location": "usa"}),
    ("location", {"location": "us-"}),
    ("location", {"location": "us-newy"}),
    ("location", {"location": "us_ny"}),
    ("location", {"location": "us\x00"}),
    ("location", {"location": "us\n"}),
]

UPDATE_ME: list[tuple[str, dict[str, str]]] = [
    ("displayName", {"display_name": "a" * 101}),
    ("displayName", {"display_name": "a\x00"}),
    ("displayName", {"display_name": "\x7f"}),
    ("bio", {"bio": "a" * 501}),
    ("bio", {"bio": "\x00"}),
    ("location", {"location": "New York"}),
    ("location", {"location": "\x00"}),
    ("avatarUrl", {"avatar_url": LONG_URL}),
    ("avatarUrl", {"avatar_url": "ftp://example.org/a"}),
    ("avatarUrl", {"avatar_url": "javascript:alert(1)"}),
    ("avatarUrl", {"avatar_url": "https://"}),
    ("avatarUrl", {"avatar_url": "https://user:secret@example.org/"}),
    ("avatarUrl", {"avatar_url": "https://example.org:port/"}),
    ("avatarUrl", {"avatar_url": "https://example.org/a b"}),
    ("avatarUrl", {"avatar_url": "https://example.org/\x00"}),
]

LISTS: list[tuple[str, dict[str, int | str]]] = [
    ("id", {"id": 0}),
    ("id", {"id": -1}),
    *WRONG_PAGES,
]


async def test_every_wrong_field_of_a_sign_up_is_named(accounts: Accounts) -> None:
    before = await accounts.contents()
    for field, wrong in CREATE_USER:
        right = {"username": "ada", "password": PASSWORD}
        request = user_pb2.CreateUserRequest(**{**right, **wrong})
        await assert_refused(accounts.users.CreateUser(request), field)
    assert await accounts.contents() == before


async def test_every_wrong_field_of_a_sign_in_is_named(accounts: Accounts) -> None:
    await accounts.sign_up("ada")
    before = await accounts.contents()
    for field, wrong in CREATE_USER:
        if field in ("username", "password"):
            right = {"username": "ada", "password": PASSWORD}
            request = user_pb2.CreateSessionRequest(**{**right, **wrong})
            await assert_refused(accounts.users.CreateSession(request), field)
    assert await accounts.contents() == before


async def test_every_wrong_field_of_a_profile_is_named(accounts: Accounts) -> None:
    (ada,) = await accounts.insert()
    before = await accounts.contents()
    for field, wrong in UPDATE_ME:
        # A right field beside the wrong one must not be written either.
        request = user_pb2.UpdateMeRequest(**{"bio": "new", **wrong})
        await assert_refused(accounts.users.UpdateMe(request, metadata=ada.metadata), field)
    assert await accounts.contents() == before


async def test_every_wrong_field_of_the_lists_is_named(accounts: Accounts) -> None:
    (ada,) = await accounts.insert()
    before = await accounts.contents()
    for field, wrong in LISTS:
        followers = graph_pb2.ListFollowersRequest(id=ada.id)
        following = graph_pb2.ListFollowingRequest(id=ada.id)
        for name, value in wrong.items():
            setattr(followers, name, value)
            setattr(following, name, value)
        await assert_refused(accounts.graph.ListFollowers(followers), field)
        await assert_refused(accounts.graph.ListFollowing(following), field)
    assert await accounts.contents() == before


async def test_impossible_id_is_named(accounts: Accounts) -> None:
    (ada,) = await accounts.insert()
    before = await accounts.contents()
    for wrong in WRONG_IDS:
        for call in (
            accounts.users.GetUser(user_pb2.GetUserRequest(id=wrong)),
            accounts.graph.FollowUser(graph_pb2.FollowUserRequest(id=wrong), metadata=ada.metadata),
            accounts.graph.UnfollowUser(
                graph_pb2.UnfollowUserRequest(id=wrong), metadata=ada.metadata
            ),
            accounts.graph.BlockUser(graph_pb2.BlockUserRequest(id=wrong), metadata=ada.metadata),
            accounts.graph.UnblockUser(
                graph_pb2.UnblockUserRequest(id=wrong), metadata=ada.metadata
            ),
            accounts.graph.MuteUser(graph_pb2.MuteUserRequest(id=wrong), metadata=ada.metadata),
            accounts.graph.UnmuteUser(graph_pb2.UnmuteUserRequest(id=wrong), metadata=ada.metadata),
        ):
            await assert_refused(call, "id")
    assert await accounts.contents() == before


async def test_impossible_name_is_named(accounts: Accounts) -> None:
    for wrong in ("", "ab", "a" * 51, "a b c", "n\x00l", "\u00e4\u00e4\u00e4"):
        request = user_pb2.GetUserByUsernameRequest(username=wrong)
        await assert_refused(accounts.users.GetUserByUsername(request), "username")


async def test_unknown_account_is_not_found(accounts: Accounts) -> None:
    (ada,) = await accounts.insert()
    before = await accounts.contents()
    for unknown in UNKNOWN_IDS:
        for call in (
            accounts.users.GetUser(user_pb2.GetUserRequest(id=unknown)),
            accounts.users.GetUserByUsername(user_pb2.GetUserByUsernameRequest(username="nobody")),
            accounts.graph.FollowUser(
                graph_pb2.FollowUserRequest(id=unknown), metadata=ada.metadata
            ),
            accounts.graph.UnfollowUser(
                graph_pb2.UnfollowUserRequest(id=unknown), metadata=ada.metadata
            ),
            accounts.graph.BlockUser(graph_pb2.BlockUserRequest(id=unknown), metadata=ada.metadata),
            accounts.graph.UnblockUser(
                graph_pb2.UnblockUserRequest(id=unknown), metadata=ada.metadata
            ),
            accounts.graph.MuteUser(graph_pb2.MuteUserRequest(id=unknown), metadata=ada.metadata),
            accounts.graph.UnmuteUser(
                graph_pb2.UnmuteUserRequest(id=unknown), metadata=ada.metadata
            ),
            accounts.graph.ListFollowers(graph_pb2.ListFollowersRequest(id=unknown)),
            accounts.graph.ListFollowing(graph_pb2.ListFollowingRequest(id=unknown)),
        ):
            await assert_not_found(call, "USER_NOT_FOUND")
    assert await accounts.contents() == before


async def test_token_of_an_account_that_is_gone_is_refused(accounts: Accounts) -> None:
    gone, other = await accounts.insert(2)
    gone = await accounts.remove(gone)
    before = await accounts.contents()

    for call in (
        accounts.follow,
        accounts.unfollow,
        accounts.block,
        accounts.unblock,
        accounts.mute,
        accounts.unmute,
    ):
        refused = await failure(call(gone, other))
        assert refused.code == grpc.StatusCode.UNAUTHENTICATED
    assert await accounts.contents() == before


async def test_every_wrong_field_of_the_internal_batches_is_named(accounts: Accounts) -> None:
    metadata = accounts.service_metadata
    many = range(1, 1_002)
    directory, blocks = accounts.directory, accounts.block_directory
    for field, call in (
        ("ids", directory.BatchGetUsers(user_pb2.BatchGetUsersRequest(), metadata=metadata)),
        (
            "ids",
            directory.BatchGetUsers(user_pb2.BatchGetUsersRequest(ids=many), metadata=metadata),
        ),
        (
            "viewerId",
            directory.BatchGetUsers(
                user_pb2.BatchGetUsersRequest(ids=[1], viewer_id=-1), metadata=metadata
            ),
        ),
        (
            "userId",
            blocks.BatchGetBlocks(
                graph_pb2.BatchGetBlocksRequest(other_ids=[1]), metadata=metadata
            ),
        ),
        (
            "otherIds",
            blocks.BatchGetBlocks(graph_pb2.BatchGetBlocksRequest(user_id=1), metadata=metadata),
        ),
        (
            "otherIds",
            blocks.BatchGetBlocks(
                graph_pb2.BatchGetBlocksRequest(user_id=1, other_ids=many), metadata=metadata
            ),
        ),
    ):
        await assert_refused(call, field)


async def test_values_at_the_limits_are_taken(accounts: Accounts) -> None:
    answer = await accounts.users.CreateUser(
        user_pb2.CreateUserRequest(
            username="a" * 50,
            password="\U0001f426" * 128,
            display_name="e\u0301" * 100,
            bio="\U0001f426" * 500,
            location="us-n1y",
        )
    )
    updated = await accounts.users.UpdateMe(
        user_pb2.UpdateMeRequest(avatar_url=LONG_URL[:-1]),
        metadata=bearer(answer.access_token),
    )
    short = await accounts.users.CreateUser(
        user_pb2.CreateUserRequest(username="a_1", password="12345678")
    )

    assert answer.user.display_name == "\u00e9" * 100
    assert updated.avatar_url == LONG_URL[:-1]
    assert short.user.username == "a_1"
