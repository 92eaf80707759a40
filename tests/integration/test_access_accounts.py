import time
from pathlib import Path

import grpc
from chirp.v1 import graph_pb2, user_pb2

from mesh import keys
from mesh.tokens import TokenSigner
from tests.integration.accounts import Accounts, bearer
from tests.refused import failure


async def refusals(accounts: Accounts, metadata: tuple[tuple[str, str], ...]) -> set[str]:
    users, graph = accounts.users, accounts.graph
    calls = [
        users.GetMe(user_pb2.GetMeRequest(), metadata=metadata),
        users.UpdateMe(user_pb2.UpdateMeRequest(bio="x"), metadata=metadata),
        users.DeleteCurrentSession(user_pb2.DeleteCurrentSessionRequest(), metadata=metadata),
        users.DeleteSessions(user_pb2.DeleteSessionsRequest(), metadata=metadata),
        graph.FollowUser(graph_pb2.FollowUserRequest(id=1), metadata=metadata),
        graph.UnfollowUser(graph_pb2.UnfollowUserRequest(id=1), metadata=metadata),
        graph.BlockUser(graph_pb2.BlockUserRequest(id=1), metadata=metadata),
        graph.UnblockUser(graph_pb2.UnblockUserRequest(id=1), metadata=metadata),
        graph.MuteUser(graph_pb2.MuteUserRequest(id=1), metadata=metadata),
        graph.UnmuteUser(graph_pb2.UnmuteUserRequest(id=1), metadata=metadata),
    ]
    refused = [await failure(call) for call in calls]
    assert {each.code for each in refused} == {grpc.StatusCode.UNAUTHENTICATED}
    return {each.reason for each in refused}


async def test_call_without_a_token_is_refused_on_what_is_not_open(accounts: Accounts) -> None:
    assert await refusals(accounts, ()) == {"UNAUTHENTICATED"}
    assert await refusals(accounts, (("authorization", "Basic YTpi"),)) == {"UNAUTHENTICATED"}


async def test_token_of_another_deployment_is_refused(accounts: Accounts, tmp_path: Path) -> None:
    (ada,) = await accounts.insert()
    elsewhere = accounts.settings.model_copy(update={"keys": tmp_path / "keys"})
    keys.ensure_keys(elsewhere)
    token = TokenSigner(elsewhere).sign_user(ada.id, 1, lifetime_s=60, now=time.time())

    assert await refusals(accounts, bearer(token)) == {"UNAUTHENTICATED"}


async def test_service_cannot_act_as_a_user(accounts: Accounts) -> None:
    assert await refusals(accounts, accounts.service_metadata) == {"UNAUTHENTICATED"}


async def test_service_methods_are_refused_to_others(accounts: Accounts) -> None:
    (ada,) = await accounts.insert()
    ids = user_pb2.BatchGetUserSummariesRequest(ids=[1])
    names = user_pb2.ResolveUsernamesRequest(usernames=["ada"])
    whole = user_pb2.BatchGetUsersRequest(ids=[1])
    blocks = graph_pb2.BatchGetBlocksRequest(user_id=1, other_ids=[2])
    for metadata, code, reason in (
        (ada.metadata, grpc.StatusCode.PERMISSION_DENIED, "SERVICES_ONLY"),
        ((), grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"),
    ):
        for call in (
            accounts.directory.BatchGetUserSummaries(ids, metadata=metadata),
            accounts.directory.ResolveUsernames(names, metadata=metadata),
            accounts.directory.BatchGetUsers(whole, metadata=metadata),
            accounts.block_directory.BatchGetBlocks(blocks, metadata=metadata),
        ):
            refused = await failure(call)
            assert (refused.code, refused.reason) == (code, reason)
