"""Calls of every method with bytes that no client of ours would send."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

import grpc
from chirp.v1 import (
    graph_pb2,
    notification_pb2,
    timeline_pb2,
    trend_pb2,
    tweet_pb2,
    user_pb2,
)
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

FILES = (graph_pb2, notification_pb2, timeline_pb2, trend_pb2, tweet_pb2, user_pb2)
AT_ONCE = 16
LATE_S = 10.0
LOOK_AT_STREAM_S = 0.05
NUMBERS = (0, 1, -1, 20, 100, 101, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63))
WORDS = ("", "a", "\0", "é", "ada_1", "world", "us-ny", "x" * 300, "🐦" * 281, "%s'\";--", "../../")
HUGE = 5 * 2**20  # more than a server takes


@dataclass(frozen=True, slots=True)
class Target:
    """A method at a server."""

    address: str
    method: MethodDescriptor

    @property
    def path(self) -> str:
        """As gRPC names it."""
        return f"/{self.method.containing_service.full_name}/{self.method.name}"


@dataclass(slots=True)
class Tally:
    """What was answered: codes, and the calls of each that should not be."""

    codes: Counter[str] = field(default_factory=Counter[str])
    wrong: list[str] = field(default_factory=list[str])

    @property
    def calls(self) -> int:
        """How many there were."""
        return self.codes.total()


async def methods_of(address: str) -> list[Target]:
    """Returns all methods of a server, as it lists them by reflection."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(cast(Any, channel))

        async def asking() -> AsyncGenerator[Any]:
            yield reflection_pb2.ServerReflectionRequest(list_services="")

        answers = [answer async for answer in stub.ServerReflectionInfo(asking())]
    names = [service.name for service in answers[0].list_services_response.service]
    known = {s.full_name: s for file in FILES for s in file.DESCRIPTOR.services_by_name.values()}
    return [
        Target(address, method)
        for name in names
        if not name.startswith("grpc.")
        for method in known[name].methods
    ]


async def attack(
    targets: Sequence[Target],
    tokens_for: Callable[[Target], Iterable[str | None]],
    *,
    cases: int,
    seed: int,
) -> Tally:
    """Calls each method `cases` times with each of its tokens, AT_ONCE at a time."""
    draw = random.Random(seed)
    tally = Tally()
    addresses = {target.address for target in targets}
    channels = {address: grpc.aio.insecure_channel(address) for address in addresses}
    calls = [
        (target, token) for target in targets for token in tokens_for(target) for _ in range(cases)
    ]
    draw.shuffle(calls)
    waiting = iter(calls)

    async def caller() -> None:
        for target, token in waiting:
            await _call(channels[target.address], target, token, draw, tally)

    try:
        await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    finally:
        for channel in channels.values():
            await channel.close()
    return tally


async def _call(
    channel: grpc.aio.Channel, target: Target, token: str | None, draw: random.Random, tally: Tally
) -> None:
    payload = hostile(target.method.input_type, draw)
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    gone_after_s = draw.choice((None, None, 0.0, 0.001, 0.02))
    kind: Any = channel.unary_stream if target.method.server_streaming else channel.unary_unary
    call = kind(target.path, request_serializer=_as_it_is, response_deserializer=_as_it_is)(
        payload, metadata=metadata, timeout=LATE_S
    )
    code = await _outcome(call, gone_after_s, stream=target.method.server_streaming)
    tally.codes[code] += 1
    if code in ("INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "DATA_LOSS"):
        tally.wrong.append(f"{code} {target.path} {payload[:60].hex()}: {await call.details()}")


async def _outcome(call: Any, gone_after_s: float | None, *, stream: bool) -> str:
    if gone_after_s is not None or stream:
        with suppress(asyncio.TimeoutError, grpc.aio.AioRpcError, asyncio.CancelledError):
            async with asyncio.timeout(LOOK_AT_STREAM_S if gone_after_s is None else gone_after_s):
                await (call.read() if stream else call)
        call.cancel()
    else:
        with suppress(grpc.aio.AioRpcError):
            await call
    return cast(grpc.StatusCode, await call.code()).name


def hostile(kind: Descriptor, draw: random.Random) -> bytes:
    """Returns bytes for a request of that kind: valid, bent, of wrong types, or noise."""
    good = _filled(kind, draw).SerializeToString()
    match draw.randrange(8):
        case 0:
            return draw.randbytes(draw.randrange(200))
        case 1:  # bits flipped
            bent = bytearray(good or b"\x08\x01")
            for _ in range(draw.randint(1, 4)):
                bent[draw.randrange(len(bent))] ^= 1 << draw.randrange(8)
            return bytes(bent)
        case 2:
            return good[: draw.randrange(len(good) + 1)]
        case 3:  # a known field with another wire type
            number = draw.choice([f.number for f in kind.fields] or [1])
            return good + _varint(number << 3 | draw.randrange(8)) + draw.randbytes(9)
        case 4:  # a length that nothing follows
            number = draw.choice([f.number for f in kind.fields] or [1])
            length = draw.choice((2**31 - 1, 2**32, 2**63, 10**6))
            return good + _varint(number << 3 | 2) + _varint(length) + b"x"
        case 5:  # groups within groups, of a field that nobody knows
            return _varint(999 << 3 | 3) * draw.choice((1, 99, 100, 101, 5_000))
        case 6 if draw.random() < 0.02:
            return b"\x0a" + _varint(HUGE) + bytes(HUGE)
        case _:
            return good


def _filled(kind: Descriptor, draw: random.Random) -> Message:
    message = message_factory.GetMessageClass(kind)()
    for each in kind.fields:
        if draw.random() < 0.3:
            continue
        if each.is_repeated:
            count = draw.choice((0, 1, 2, 101))
            if each.message_type is None:
                getattr(message, each.name).extend(_value(each, draw) for _ in range(count))
        elif each.message_type is None:
            setattr(message, each.name, _value(each, draw))
    return message


def _value(kind: FieldDescriptor, draw: random.Random) -> Any:
    match kind.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            word = draw.choice(WORDS)
            return word.encode() if kind.type == FieldDescriptor.TYPE_BYTES else word
        case FieldDescriptor.CPPTYPE_BOOL:
            return draw.random() < 0.5
        case FieldDescriptor.CPPTYPE_DOUBLE:
            return draw.choice((0.0, -1.0, float("inf"), float("nan")))
        case FieldDescriptor.CPPTYPE_INT64:
            return draw.choice(NUMBERS)
        case _:
            return draw.choice(NUMBERS[:8])


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes((*parts, value))


def _as_it_is(content: bytes) -> bytes:
    return content
