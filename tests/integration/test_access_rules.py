"""Every RPC of every process, as reflection tells them, keeps to its declared rule."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Iterable
from typing import Any

import grpc
import pytest
import pytest_asyncio
from chirp.v1 import tweet_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from mesh.access import CALLERS, RULES, SERVICES, Access
from mesh.settings import Settings
from tests import refused
from tests.access_cases import CASES, OK, Scene
from tests.all_processes import Chirp, method_of, open_all
from tests.integration.accounts import Account

pytestmark = pytest.mark.asyncio(loop_scope="module")

PACKAGE = "/chirp.v1."
WITHOUT_A_RULE = {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
"""What every process answers to anybody on our own network; the gateway has no route to it."""

DEADLINE_S = 10.0
_numbers = itertools.count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chirp(module_settings: Settings) -> AsyncGenerator[Chirp]:
    async with open_all(module_settings) as opened:
        yield opened


def reflected(address: str) -> tuple[set[str], set[str]]:
    """Asks a process which RPCs it answers: the paths of ours, the names of other services."""
    paths, others = set[str](), set[str]()
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(database)
        for name in database.get_services():
            if not f"/{name}".startswith(PACKAGE):
                others.add(name)
                continue
            service: Any = pool.FindServiceByName(name)
            paths |= {f"/{name}/{method.name}" for method in service.methods}
    return paths, others


def without_a_rule(paths: Iterable[str]) -> set[str]:
    """Returns what nobody declared; of what is for services, also what none of them may call."""
    return {
        path
        for path in paths
        if path not in RULES
        or (RULES[path] is Access.SERVICE and not CALLERS.get(path))
        or path.removeprefix(PACKAGE) not in CASES
    }


async def scene_of(chirp: Chirp) -> Scene:
    """Sets a scene of its own for each call: some calls change it."""
    owner = await chirp.accounts.sign_up()
    stranger, blocked = [await chirp.sign_in(each) for each in await chirp.accounts.insert(2)]
    await chirp.accounts.block(owner, blocked)
    tweet = await chirp.call("/chirp.v1.TweetService/CreateTweet", "tweet_server")(
        tweet_pb2.CreateTweetRequest(content="by the owner"), metadata=owner.metadata
    )
    return Scene(owner, stranger, blocked, tweet.id, f"fresh_{next(_numbers)}")


async def ask(chirp: Chirp, path: str, scene: Scene, metadata: Any) -> tuple[str, Message | None]:
    """Calls an RPC; returns the reason of the refusal, or OK and the (first) answer."""
    case, method = CASES[path.removeprefix(PACKAGE)], method_of(path)
    request = message_factory.GetMessageClass(method.input_type)(**case.fields(scene))
    call = chirp.call(path, case.process)(request, metadata=metadata)
    try:
        async with asyncio.timeout(DEADLINE_S):
            answer = await (call.read() if method.server_streaming else call)
    except grpc.aio.AioRpcError as error:
        return refused.read(error).reason, None
    if method.server_streaming:
        call.cancel()
    return OK, answer


async def test_reflection_finds_what_has_a_rule_and_nothing_else(chirp: Chirp) -> None:
    answered, others = set[str](), set[str]()
    for address in chirp.addresses.values():
        paths, infrastructure = await asyncio.to_thread(reflected, address)
        answered |= paths
        others |= infrastructure

    assert without_a_rule(answered) == set()
    assert answered == set(RULES) == {PACKAGE + name for name in CASES}
    assert others == WITHOUT_A_RULE
    assert set(CALLERS) == {path for path, rule in RULES.items() if rule is Access.SERVICE}
    assert {name for callers in CALLERS.values() for name in callers} <= set(SERVICES)


async def test_an_rpc_without_a_rule_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for table, path in (
        (RULES, "/chirp.v1.TweetService/GetTweet"),
        (CALLERS, "/chirp.v1.TweetRecordService/GetViewerMarks"),
    ):
        with monkeypatch.context() as patched:
            patched.delitem(table, path)
            assert without_a_rule([path]) == {path}
        assert without_a_rule([path]) == set()


@pytest.mark.parametrize("path", [path for path in RULES if RULES[path] is not Access.SERVICE])
async def test_nobody_a_stranger_the_blocked_and_the_owner_are_told_what_they_may(
    chirp: Chirp, path: str
) -> None:
    case, rule = CASES[path.removeprefix(PACKAGE)], RULES[path]
    scene = await scene_of(chirp)
    before = await owned(chirp, scene.owner)

    told = {
        "nobody": (await ask(chirp, path, scene, None))[0],
        "bad token": (await ask(chirp, path, scene, (("authorization", "Bearer x"),)))[0],
        "service": (await ask(chirp, path, _fresh(scene), _service(chirp, "tweet_server")))[0],
    }
    answers: list[Message | None] = []
    for role, account in (("stranger", scene.stranger), ("blocked", scene.blocked)):
        told[role], answer = await ask(chirp, path, _fresh(scene), account.metadata)
        answers.append(answer)
        if rule is Access.OWNER:
            assert await owned(chirp, scene.owner) == before, f"{role} changed what is another's"
    told["owner"], own = await ask(chirp, path, _fresh(scene), scene.owner.metadata)

    unknown = case.nobody if rule is Access.OPEN else "UNAUTHENTICATED"
    assert told == {
        "nobody": unknown,
        "bad token": "UNAUTHENTICATED",
        "service": unknown,
        "stranger": case.stranger,
        "blocked": case.blocked,
        "owner": case.owner,
    }
    if case.private:
        mine = {scene.owner.id, scene.tweet}
        assert own is not None
        assert numbers(own) & mine
        for answer in answers:
            assert answer is not None
            assert not numbers(answer) & mine


@pytest.mark.parametrize("path", list(CALLERS))
async def test_only_the_services_that_are_named_may_call_what_is_for_services(
    chirp: Chirp, path: str
) -> None:
    scene = await scene_of(chirp)

    told = {name: (await ask(chirp, path, scene, _service(chirp, name)))[0] for name in SERVICES}
    people = [
        (await ask(chirp, path, scene, account.metadata))[0]
        for account in (scene.stranger, scene.blocked, scene.owner)
    ]

    assert told == {name: OK if name in CALLERS[path] else "SERVICES_ONLY" for name in SERVICES}
    assert people == ["SERVICES_ONLY"] * 3
    assert (await ask(chirp, path, scene, None))[0] == "UNAUTHENTICATED"


async def test_notifications_and_streams_of_ones_own_show_nothing_of_others(chirp: Chirp) -> None:
    scene = await scene_of(chirp)
    await chirp.accounts.follow(scene.stranger, scene.owner)
    listed = "/chirp.v1.NotificationService/ListNotifications"

    async with asyncio.timeout(DEADLINE_S):
        while scene.stranger.id not in numbers(
            (await ask(chirp, listed, scene, scene.owner.metadata))[1]
        ):
            await asyncio.sleep(0.02)

    for account in (scene.stranger, scene.blocked):
        reason, answer = await ask(chirp, listed, scene, account.metadata)
        assert (reason, numbers(answer)) == (OK, set())


async def owned(chirp: Chirp, owner: Account) -> list[Any]:
    """Returns everything that is kept of somebody."""
    rows: list[Any] = []
    for statement in (
        "SELECT * FROM users WHERE id = %s",
        "SELECT * FROM sessions WHERE user_id = %s ORDER BY id",
        "SELECT * FROM tweets WHERE author_id = %s ORDER BY id",
        "SELECT * FROM follows WHERE follower_id = %s ORDER BY id",
        "SELECT * FROM blocks WHERE blocker_id = %s ORDER BY blocked_id",
        # The worker makes boxes whenever it comes to it; how far one was read is the owner's.
        "SELECT read_to FROM notification_boxes WHERE user_id = %s AND read_to > 0",
    ):
        rows += await chirp.accounts.rows(statement, owner.id)
    return rows


def numbers(message: Message | None) -> set[int]:
    """Returns every number that stands anywhere in a message."""
    found: set[int] = set()
    fields: Any = message.ListFields() if message is not None else ()
    for descriptor, value in fields:
        for each in value if descriptor.is_repeated else (value,):
            if isinstance(each, Message):
                found |= numbers(each)
            elif isinstance(each, int):
                found.add(each)
    return found


def _fresh(scene: Scene) -> Scene:
    return Scene(scene.owner, scene.stranger, scene.blocked, scene.tweet, f"fresh_{next(_numbers)}")


def _service(chirp: Chirp, name: str) -> Any:
    return chirp.accounts.metadata_of(name)
