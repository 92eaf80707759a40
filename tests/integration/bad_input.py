"""Input that is just wrong, and what a call with it must say."""

from collections.abc import Awaitable
from typing import Any

import grpc
import pytest

from mesh.clients import Metadata
from tests.refused import failure

URL = "https://example.org/"
LONG_URL = URL + "a" * (2_049 - len(URL))
WRONG_IDS = (0, -1, -(2**63))
UNKNOWN_IDS = (1, 7, 2**63 - 1)
WRONG_PAGES: list[tuple[str, dict[str, Any]]] = [
    ("limit", {"limit": 0}),
    ("limit", {"limit": -1}),
    ("limit", {"limit": -5}),
    ("limit", {"limit": -(2**31)}),
    ("cursor", {"cursor": "!"}),
    ("cursor", {"cursor": "0"}),
    ("cursor", {"cursor": "AAAAAAAAAAAA"}),
    ("cursor", {"cursor": "AQAAAAAAAAAA"}),
    ("cursor", {"cursor": "Av__________"}),
    ("cursor", {"cursor": "AQAAAAAAAAAB\n"}),
    ("cursor", {"cursor": "AQAAAAAAAAABAQ"}),
    ("cursor", {"cursor": "AQ\x00AAAAAAAAB"}),
    ("cursor", {"cursor": "A" * 100_000}),
]


async def assert_refused(call: Awaitable[object], field: str) -> None:
    """The field is named, and nothing else."""
    refused = await failure(call)

    assert (refused.code, refused.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_ARGUMENT",
    )
    assert refused.fields == [field]
    assert refused.message.startswith(f"{field}: ")


async def assert_not_found(call: Awaitable[object], reason: str = "TWEET_NOT_FOUND") -> None:
    """It is said what is not there."""
    refused = await failure(call)

    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, reason)
    assert refused.fields == []


async def assert_no_message_is_refused(target: str, method: str, metadata: Metadata) -> None:
    """Calls a method (`/service/name`) with bytes that are no message."""
    async with grpc.aio.insecure_channel(target) as channel:
        call: Any = channel.unary_unary(method)  # pyright: ignore[reportUnknownVariableType]
        with pytest.raises(grpc.aio.AioRpcError):
            await call(b"\x0a\xff\xff\xff\xff", metadata=metadata)
