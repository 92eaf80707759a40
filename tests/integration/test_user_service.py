import asyncio
import json
import time
from collections.abc import Awaitable

import grpc
import jwt
from chirp.v1 import user_pb2

from tests.integration.accounts import PASSWORD, Accounts, bearer
from tests.refused import failure


def new_user(username: str, **fields: str) -> user_pb2.CreateUserRequest:
    return user_pb2.CreateUserRequest(username=username, password=PASSWORD, **fields)


async def test_sign_up_answers_the_account_and_a_token_that_works(accounts: Accounts) -> None:
    answer = await accounts.users.CreateUser(
        new_user("Ada_1", display_name="Ada  Lovelace", bio="one\ntwo", location="gb-eng")
    )

    me = await accounts.users.GetMe(user_pb2.GetMeRequest(), metadata=bearer(answer.access_token))
    assert (me.id, me.username, me.display_name) == (answer.user.id, "Ada_1", "Ada  Lovelace")
    assert (me.bio, me.location, me.tier) == ("one\ntwo", "gb-eng", user_pb2.TIER_NORMAL)
    assert abs(me.created_at.seconds - time.time()) < 60
    assert answer.expires_in == accounts.settings.token_lifetime_s
    assert not answer.user.HasField("following")
    assert me.HasField("following")
    assert me.HasField("followed_by")
    assert me.HasField("blocked")
    assert me.HasField("muted")
    ((key, event),) = await accounts.events()
    assert key == event.user_created.user_id == me.id


async def test_display_name_is_the_username_where_none_was_given(accounts: Accounts) -> None:
    answer = await accounts.users.CreateUser(new_user("ada"))

    assert answer.user.display_name == "ada"


async def test_text_is_stored_in_nfc(accounts: Accounts) -> None:
    answer = await accounts.users.CreateUser(new_user("zoe", display_name="Zoe\u0308"))

    assert answer.user.display_name == "Zo\u00eb"


async def test_password_is_stored_as_argon2id_only(accounts: Accounts) -> None:
    await accounts.sign_up("ada")

    ((stored,),) = await accounts.rows("SELECT password_hash FROM users")
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert PASSWORD not in stored


async def test_username_is_taken_without_regard_to_case(accounts: Accounts) -> None:
    await accounts.sign_up("ada")
    before = await accounts.contents()

    refused = await failure(accounts.users.CreateUser(new_user("ADA")))

    assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, "USERNAME_TAKEN")
    assert await accounts.contents() == before


async def test_of_sign_ups_at_once_under_one_name_one_succeeds(accounts: Accounts) -> None:
    names = ["Grace", "grace", "GRACE", "gRace", "grAce", "graCe"]

    answers = await asyncio.gather(
        *(accounts.users.CreateUser(new_user(name)) for name in names), return_exceptions=True
    )

    refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert len(refused) == len(names) - 1
    assert {error.code() for error in refused} == {grpc.StatusCode.ALREADY_EXISTS}
    assert await accounts.rows("SELECT count(*) FROM users") == [(1,)]
    assert len(await accounts.events()) == 1


async def test_sign_in_works_in_any_case_of_the_name_and_any_form_of_the_password(
    accounts: Accounts,
) -> None:
    await accounts.users.CreateUser(
        user_pb2.CreateUserRequest(username="Ada", password="Lovelac\u00e9")
    )

    answer = await accounts.users.CreateSession(
        user_pb2.CreateSessionRequest(username="aDA", password="Lovelace\u0301")
    )

    assert answer.user.username == "Ada"
    await accounts.users.GetMe(user_pb2.GetMeRequest(), metadata=bearer(answer.access_token))


async def test_unknown_name_wrong_password_and_no_password_are_answered_alike(
    accounts: Accounts,
) -> None:
    await accounts.sign_up("ada")
    (without_password,) = await accounts.insert()

    refused = [
        await failure(
            accounts.users.CreateSession(
                user_pb2.CreateSessionRequest(username=name, password="not the password")
            )
        )
        for name in ("ada", "nobody", without_password.username)
    ]

    assert refused[0].code == grpc.StatusCode.UNAUTHENTICATED
    assert refused[0].reason == "BAD_CREDENTIALS"
    assert refused[0] == refused[1] == refused[2]
    # Theirs, with which the test began.
    assert await accounts.rows("SELECT count(*) FROM sessions") == [(2,)]


async def test_update_changes_the_fields_that_are_present_and_no_others(
    accounts: Accounts,
) -> None:
    answer = await accounts.users.CreateUser(new_user("ada", bio="old bio", location="fr"))
    metadata = bearer(answer.access_token)

    updated = await accounts.users.UpdateMe(
        user_pb2.UpdateMeRequest(
            display_name="Countess", location="", avatar_url="https://example.org/a.png"
        ),
        metadata=metadata,
    )

    assert (updated.display_name, updated.bio) == ("Countess", "old bio")
    assert (updated.location, updated.avatar_url) == ("", "https://example.org/a.png")
    assert await accounts.users.GetMe(user_pb2.GetMeRequest(), metadata=metadata) == updated
    _, (key, event) = await accounts.events()
    assert key == event.user_updated.user_id == updated.id
    assert await accounts.rows("SELECT kind, subject_id FROM purges") == [(2, updated.id)]


async def test_empty_display_name_and_avatar_are_cleared(accounts: Accounts) -> None:
    ada = await accounts.sign_up("ada")
    await accounts.users.UpdateMe(
        user_pb2.UpdateMeRequest(display_name="x", avatar_url="http://example.org"),
        metadata=ada.metadata,
    )

    cleared = await accounts.users.UpdateMe(
        user_pb2.UpdateMeRequest(display_name="", avatar_url=""), metadata=ada.metadata
    )

    assert (cleared.display_name, cleared.avatar_url) == ("ada", "")


async def test_update_of_nothing_tells_nobody(accounts: Accounts) -> None:
    ada = await accounts.sign_up("ada")
    before = await accounts.contents()

    answer = await accounts.users.UpdateMe(user_pb2.UpdateMeRequest(), metadata=ada.metadata)

    assert answer.username == "ada"
    assert await accounts.contents() == before


async def test_account_is_found_by_id_and_by_name_without_a_token(accounts: Accounts) -> None:
    ada = await accounts.sign_up("Ada")

    by_id = await accounts.users.GetUser(user_pb2.GetUserRequest(id=ada.id))
    by_name = await accounts.users.GetUserByUsername(
        user_pb2.GetUserByUsernameRequest(username="ADA")
    )

    assert by_id == by_name
    assert by_id.id == ada.id
    assert not by_id.HasField("following")


async def test_ended_session_is_refused_and_the_others_stay(accounts: Accounts) -> None:
    ada = await accounts.sign_up("ada")
    other = await accounts.users.CreateSession(
        user_pb2.CreateSessionRequest(username="ada", password=PASSWORD)
    )

    def end() -> Awaitable[object]:
        return accounts.users.DeleteCurrentSession(
            user_pb2.DeleteCurrentSessionRequest(), metadata=ada.metadata
        )

    await end()

    me = accounts.users.GetMe(user_pb2.GetMeRequest(), metadata=ada.metadata)
    for refused in (await failure(end()), await failure(me)):
        assert (refused.code, refused.reason) == (
            grpc.StatusCode.UNAUTHENTICATED,
            "UNAUTHENTICATED",
        )
    await accounts.users.GetMe(user_pb2.GetMeRequest(), metadata=bearer(other.access_token))


async def test_ending_all_sessions_ends_only_ones_own(accounts: Accounts) -> None:
    ada, grace = await accounts.sign_up("ada"), await accounts.sign_up("grace")
    other = await accounts.users.CreateSession(
        user_pb2.CreateSessionRequest(username="ada", password=PASSWORD)
    )

    await accounts.users.DeleteSessions(user_pb2.DeleteSessionsRequest(), metadata=ada.metadata)

    for token in (ada.token, other.access_token):
        change = accounts.users.UpdateMe(user_pb2.UpdateMeRequest(bio="x"), metadata=bearer(token))
        assert (await failure(change)).reason == "UNAUTHENTICATED"
    await accounts.users.GetMe(user_pb2.GetMeRequest(), metadata=grace.metadata)


async def test_published_keys_verify_tokens(accounts: Accounts) -> None:
    ada = await accounts.sign_up("ada")

    answer = await accounts.users.GetJwks(user_pb2.GetJwksRequest())

    assert answer.content_type == "application/json"
    document = json.loads(answer.data)
    assert all("d" not in key for key in document["keys"])
    key = jwt.PyJWKSet.from_dict(document).keys[0]
    claims = jwt.decode(ada.token, key, algorithms=["EdDSA"], audience="chirp", issuer="chirp")
    assert claims["sub"] == str(ada.id)
    assert claims["exp"] - claims["iat"] == accounts.settings.token_lifetime_s
    assert int(claims["sid"]) > 0


async def test_directory_answers_those_who_exist(accounts: Accounts) -> None:
    ada, grace = await accounts.insert(2)

    summaries = await accounts.directory.BatchGetUserSummaries(
        user_pb2.BatchGetUserSummariesRequest(ids=[ada.id, grace.id, ada.id, 7, -1]),
        metadata=accounts.service_metadata,
    )
    resolved = await accounts.directory.ResolveUsernames(
        user_pb2.ResolveUsernamesRequest(
            usernames=[grace.username.upper(), "nobody", "x", "n\x00l", "\u00e4\u00f6\u00fc"]
        ),
        metadata=accounts.service_metadata,
    )

    assert {user.id: user.username for user in summaries.users} == {
        ada.id: ada.username,
        grace.id: grace.username,
    }
    assert [user.id for user in resolved.users] == [grace.id]


async def test_directory_refuses_too_few_and_too_many(accounts: Accounts) -> None:
    for count in (0, 1_001):
        ids = user_pb2.BatchGetUserSummariesRequest(ids=range(1, count + 1))
        refused = await failure(
            accounts.directory.BatchGetUserSummaries(ids, metadata=accounts.service_metadata)
        )
        assert (refused.reason, refused.fields) == ("INVALID_ARGUMENT", ["ids"])
    for count in (0, 101):
        names = user_pb2.ResolveUsernamesRequest(usernames=["ada"] * count)
        refused = await failure(
            accounts.directory.ResolveUsernames(names, metadata=accounts.service_metadata)
        )
        assert (refused.reason, refused.fields) == ("INVALID_ARGUMENT", ["usernames"])
