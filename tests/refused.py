"""What a refused call says: read from its google.rpc.Status, as a client would."""

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status


@dataclass(frozen=True, slots=True)
class Failure:
    """What a refused call says."""

    code: grpc.StatusCode
    reason: str
    message: str
    fields: list[str] = field(default_factory=list[str])
    """That are wrong."""
    retry_after_s: int | None = None
    headers: Mapping[str, Any] = field(default_factory=dict[str, Any], compare=False)
    """The trailing metadata; failures are alike also where these differ."""


async def failure(call: Awaitable[object]) -> Failure:
    """Awaits a call that must fail; returns what it says, with exactly one ErrorInfo."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return read(error)
    raise AssertionError(f"the call was not refused but answered {answer}")


def read(error: grpc.aio.AioRpcError) -> Failure:
    """Returns what an error says, with exactly one ErrorInfo, which comes first."""
    status = cast("status_pb2.Status | None", cast(Any, rpc_status).from_call(error))
    assert status is not None, f"no google.rpc.Status came with {error}"
    info, *others = status.details
    said = error_details_pb2.ErrorInfo()
    assert info.Unpack(said)
    assert said.domain == "chirp"
    fields: list[str] = []
    retry_after_s = None
    for detail in others:
        bad_request, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(bad_request):
            fields += [violation.field for violation in bad_request.field_violations]
        elif detail.Unpack(retry):
            assert retry_after_s is None
            retry_after_s = retry.retry_delay.seconds
        else:
            raise AssertionError(f"a detail that is none of ours: {detail.type_url}")
    headers = dict(error.trailing_metadata() or ())
    return Failure(error.code(), said.reason, status.message, fields, retry_after_s, headers)
