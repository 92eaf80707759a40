"""The one table from errors to google.rpc.Status, and back from failures of what we call.

What is unknown becomes INTERNAL with a generic text outside and everything in the log.
"""

import asyncio
import logging
import traceback
from datetime import timedelta

import grpc
import psycopg
import psycopg_pool
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from domain import errors
from mesh import redis_library

DOMAIN = "chirp"
RETRY_AFTER_S = 1
CAUSES_MAX = 5  # errors of one chain that are logged
UNAVAILABLE_TEXT = "a part of Chirp is down; try again"

log = logging.getLogger(__name__)

CODES: dict[type[errors.ChirpError], int] = {
    errors.InvalidArgument: code_pb2.INVALID_ARGUMENT,
    errors.SelfFollow: code_pb2.INVALID_ARGUMENT,
    errors.SelfBlock: code_pb2.INVALID_ARGUMENT,
    errors.SelfMute: code_pb2.INVALID_ARGUMENT,
    errors.Blocked: code_pb2.PERMISSION_DENIED,
    errors.Unauthenticated: code_pb2.UNAUTHENTICATED,
    errors.BadCredentials: code_pb2.UNAUTHENTICATED,
    errors.NotYours: code_pb2.PERMISSION_DENIED,
    errors.ServicesOnly: code_pb2.PERMISSION_DENIED,
    errors.UserNotFound: code_pb2.NOT_FOUND,
    errors.TweetNotFound: code_pb2.NOT_FOUND,
    errors.UsernameTaken: code_pb2.ALREADY_EXISTS,
    errors.Overloaded: code_pb2.RESOURCE_EXHAUSTED,
    errors.RateLimited: code_pb2.RESOURCE_EXHAUSTED,
    errors.Unavailable: code_pb2.UNAVAILABLE,
    errors.DeadlineExceeded: code_pb2.DEADLINE_EXCEEDED,
}

RETRYABLE = (errors.Overloaded, errors.Unavailable, errors.RateLimited)

# What a database, a cache or another server throws when it is away, and not when we are wrong.
OUTAGES = (
    psycopg.OperationalError,
    psycopg_pool.PoolTimeout,
    psycopg_pool.TooManyRequests,
    redis_library.exceptions.ConnectionError,
    redis_library.exceptions.TimeoutError,
    ConnectionError,
    TimeoutError,
)

PASSED_ON = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}


def translate(error: BaseException, method: str) -> errors.ChirpError:
    """Returns the error to answer for whatever a handler raised; logs what nobody expected."""
    if isinstance(error, errors.ChirpError):
        return error
    if isinstance(error, psycopg.errors.QueryCanceled):
        log.warning("%s: statement took too long", method)
        return errors.DeadlineExceeded("the call took too long")
    if isinstance(error, OUTAGES):
        log.warning("%s: a part is down: %s: %s", method, type(error).__name__, error)
        return errors.Unavailable(UNAVAILABLE_TEXT)
    if isinstance(error, grpc.aio.AioRpcError) and error.code() in PASSED_ON:
        log.warning("%s: a server is down: %s", method, error.details())
        return errors.Unavailable(UNAVAILABLE_TEXT)
    if isinstance(error, grpc.aio.AioRpcError) and (
        error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    ):
        log.warning("%s: a call to another server took too long: %s", method, error)
        return errors.DeadlineExceeded("the call took too long")
    if isinstance(error, asyncio.CancelledError):
        raise error
    log.error("%s: unexpected error: %s", method, describe(error))
    return errors.ChirpError("internal error")


def describe(error: BaseException) -> str:
    """Returns what a log may hold of an error that nobody expected: where it came from, and what it
    says, unless it is the database's, whose messages show rows: of these, the condition and where
    it was broken. What caused the error, in the same way."""
    lines: list[str] = []
    each: BaseException | None = error
    while each is not None and len(lines) < CAUSES_MAX:
        said = str(each)
        if isinstance(each, psycopg.Error):
            diag = each.diag
            said = " ".join(filter(None, (each.sqlstate, diag.table_name, diag.constraint_name)))
        where = "".join(traceback.format_tb(each.__traceback__))
        lines.append(f"{type(each).__name__}: {said}\n{where}")
        each = each.__cause__ or each.__context__
    return "caused by ".join(lines)


def to_status(error: errors.ChirpError) -> status_pb2.Status:
    """Returns the status: exactly one ErrorInfo, and BadRequest or RetryInfo where they help."""
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)]
    if isinstance(error, errors.InvalidArgument):
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=violation.field, description=violation.description
                    )
                    for violation in error.violations
                ]
            )
        )
    if isinstance(error, RETRYABLE):
        delay = duration_pb2.Duration()
        delay.FromTimedelta(timedelta(seconds=_retry_after_s(error)))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed: list[any_pb2.Any] = []
    for detail in details:
        envelope = any_pb2.Any()
        envelope.Pack(detail)
        packed.append(envelope)
    return status_pb2.Status(
        code=CODES.get(type(error), code_pb2.INTERNAL), message=error.message, details=packed
    )


def to_headers(error: errors.ChirpError) -> tuple[tuple[str, str], ...]:
    """Returns what a refusal says besides its status: `retry-after`, and of a rate limit the fields
    of draft-ietf-httpapi-ratelimit-headers (its form since draft 08). The gateway makes headers of
    these trailers."""
    if not isinstance(error, RETRYABLE):
        return ()
    headers = (("retry-after", str(_retry_after_s(error))),)
    if isinstance(error, errors.RateLimited):
        headers += rate_headers(error.policy, error.quota, error.window_s, error.retry_after_s)
    return headers


def rate_headers(
    policy: str, quota: int, window_s: int, retry_after_s: int
) -> tuple[tuple[str, str], ...]:
    """Returns the fields of a quota of which nothing is left: `q` within `w` seconds, `r` that
    remain, `t` seconds until there is one more."""
    return (
        ("ratelimit", f'"{policy}";r=0;t={retry_after_s}'),
        ("ratelimit-policy", f'"{policy}";q={quota};w={window_s}'),
    )


def _retry_after_s(error: errors.ChirpError) -> int:
    return error.retry_after_s if isinstance(error, errors.RateLimited) else RETRY_AFTER_S
