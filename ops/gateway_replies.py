"""What Envoy answers by itself: one google.rpc.Status for each HTTP status, as JSON for REST and as
`grpc-status-details-bin` for gRPC, so that it looks like what mesh/errors.py makes.
"""

import base64
from collections.abc import Mapping
from typing import Any, NamedTuple

from google.protobuf import any_pb2, duration_pb2, json_format
from google.protobuf.message import Message
from google.rpc import code_pb2 as code
from google.rpc import error_details_pb2, status_pb2

from domain.rate import Limit, whole_seconds
from mesh.errors import DOMAIN, RETRY_AFTER_S, UNAVAILABLE_TEXT, rate_headers


class Reply(NamedTuple):
    """What Envoy says when it answers by itself with an HTTP status."""

    status: int
    code: int
    reason: str
    message: str
    headers: Mapping[str, str] = {}
    retry_after_s: int = 0
    """What RetryInfo says; 0: there is none."""


LATE = "the call took too long"
RETRY_AFTER = {"retry-after": str(RETRY_AFTER_S)}

UNREADABLE = Reply(400, code.INVALID_ARGUMENT, "INVALID_ARGUMENT", "the request is not valid")
FAILED = Reply(500, code.INTERNAL, "INTERNAL", "internal error")
NO_ROUTE = Reply(404, code.NOT_FOUND, "NOT_FOUND", "no such route")
OVERLOADED = Reply(
    429,
    code.RESOURCE_EXHAUSTED,
    "OVERLOADED",
    "too many calls; try again",
    RETRY_AFTER,
    RETRY_AFTER_S,
)
TIMED_OUT = Reply(504, code.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", LATE)
UNAVAILABLE = Reply(
    503, code.UNAVAILABLE, "UNAVAILABLE", UNAVAILABLE_TEXT, RETRY_AFTER, RETRY_AFTER_S
)

# What local_ratelimit refuses; its response flag RL is set only after the reply is made.
FROM_RATE_LIMIT = "response.code_details == 'local_rate_limited'"
LIMITED_MESSAGE = "too many requests of this address; try again later"

# Sign-ups and sign-ins, as REST and as gRPC.
_SIGN_IN = r"/(api/+(users|sessions)/*|chirp\.v1\.UserService/Create(User|Session))(\?.*)?"
SIGN_IN_HEADERS: list[dict[str, Any]] = [
    {"name": ":method", "string_match": {"exact": "POST"}},
    {"name": ":path", "string_match": {"safe_regex": {"regex": _SIGN_IN}}},
]

# A circuit breaker that is open: of the calls under way, or of those that wait for a connection.
FROM_BREAKER = "response.code_details.contains('overflow')"

NOT_SIGNED_IN = Reply(
    401,
    code.UNAUTHENTICATED,
    "UNAUTHENTICATED",
    "the access token is not valid or has expired",
    {"www-authenticate": "Bearer"},
)
FROM_TOKENS = "response.code_details.contains('jwt_authn_access_denied')"
NO_KEYS = "response.code_details.contains('Jwks_remote_fetch_is_failed')"

# For exactly their status.
REPLIES = (
    NOT_SIGNED_IN,
    NO_ROUTE,
    Reply(408, code.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", LATE),
    Reply(413, code.INVALID_ARGUMENT, "TOO_LARGE", "the body is larger than 64 KiB"),
    OVERLOADED,
    Reply(431, code.INVALID_ARGUMENT, "TOO_LARGE", "the headers are over 16 KiB, or over 64"),
    UNAVAILABLE,
    TIMED_OUT,
)
# For their status and all above, by the first that fits what the others leave.
REST_OF_REPLIES = (FAILED, UNREADABLE)

# The transcoder's text says what is wrong with the JSON. No other text of Envoy's is passed on:
# they name hosts, paths and connections, or say nothing.
NOT_TRANSCODED = UNREADABLE._replace(message="%LOCAL_REPLY_BODY%")
FROM_TRANSCODER = "response.code_details.contains('grpc_json_transcode')"

# Errors that the servers' gRPC library makes before or instead of our handlers, such as too many
# calls at once, have no details.
TOO_LARGE = Reply(
    413, code.INVALID_ARGUMENT, "TOO_LARGE", "the message is larger than 256 KiB, decompressed"
)
BARE_ERRORS = (
    OVERLOADED,
    TIMED_OUT,
    UNAVAILABLE,
    FAILED,
    FAILED._replace(code=code.UNKNOWN),
    NO_ROUTE._replace(code=code.UNIMPLEMENTED),
)


def local_replies(address: Limit, sign_in: Limit) -> list[dict[str, Any]]:
    """Returns the mappers of local_reply_config: for each reply one that answers in gRPC's
    trailers-only form, and one that answers JSON. `address` and `sign_in` are what an address may
    ask, and how often it may sign in."""
    mappers = [
        {
            "filter": _all_of(_status_is("EQ", 400), _cel(FROM_TRANSCODER)),
            "body_format_override": {"json_format": _json(NOT_TRANSCODED)},
        }
    ]
    # jwt_authn answers another audience with 403, and says 401 where it was never told of any key.
    mappers += _mappers(UNAVAILABLE, _cel(NO_KEYS), another_status=True)
    of_tokens = _cel(FROM_TOKENS)
    mappers += _mappers(NOT_SIGNED_IN, _status_is("EQ", 403), of_tokens, another_status=True)
    mappers += _mappers(OVERLOADED, _cel(FROM_BREAKER), another_status=True)
    limited = _cel(FROM_RATE_LIMIT)
    of_sign_in = [{"header_filter": {"header": header}} for header in SIGN_IN_HEADERS]
    mappers += _mappers(_limited("sign_in", sign_in), limited, *of_sign_in)
    mappers += _mappers(_limited("address", address), limited)
    for reply in REPLIES:
        mappers += _mappers(reply, _status_is("EQ", reply.status))
    for reply in REST_OF_REPLIES:
        mappers += _mappers(reply, _status_is("GE", reply.status))
    return mappers


def bare_errors() -> str:
    """Returns the Lua program that gives details to an answer that is an error without them."""
    rows = "".join(
        f'  ["{reply.code}"] = {{"{reply.message}", "{_binary(reply)}", '
        f"{str(reply.retry_after_s > 0).lower()}}},\n"
        for reply in BARE_ERRORS
    )
    return f"""local errors = {{
{rows}}}
local too_large = {{"{TOO_LARGE.message}", "{_binary(TOO_LARGE)}", false}}
function envoy_on_response(response)
  local headers = response:headers()
  local bare = errors[headers:get("grpc-status")]
  if bare and string.find(headers:get("grpc-message") or "", "larger than max", 1, true)
      and not headers:get("grpc-status-details-bin") then
    bare = too_large
    headers:replace("grpc-status", "{TOO_LARGE.code}")
  end
  if bare and not headers:get("grpc-status-details-bin") then
    headers:replace("grpc-message", bare[1])
    headers:replace("grpc-status-details-bin", bare[2])
    if bare[3] then headers:replace("retry-after", "{RETRY_AFTER_S}") end
  end
end
"""


def _limited(policy: str, limit: Limit) -> Reply:
    wait_s = whole_seconds(limit.interval_us)
    fields = rate_headers(policy, limit.quota, limit.window_s, wait_s)
    return OVERLOADED._replace(
        reason="RATE_LIMITED",
        message=LIMITED_MESSAGE,
        headers={"retry-after": str(wait_s), **dict(fields)},
        retry_after_s=wait_s,
    )


def _mappers(
    reply: Reply, *matches: dict[str, Any], another_status: bool = False
) -> list[dict[str, Any]]:
    # For gRPC a method that is not there is UNIMPLEMENTED, and only a thing is NOT_FOUND.
    grpc = reply._replace(code=code.UNIMPLEMENTED) if reply is NO_ROUTE else reply
    # Envoy's own mapping from HTTP statuses would say INTERNAL for 400 and UNKNOWN for 413.
    headers = {"grpc-status": str(grpc.code), "grpc-status-details-bin": _binary(grpc)}
    return [
        {
            "filter": _all_of(*matches, *ASKED_IN_GRPC),
            "headers_to_add": _headers({**reply.headers, **headers}),
            "body_format_override": {"text_format_source": {"inline_string": reply.message}},
        },
        {
            "filter": matches[0] if len(matches) == 1 else _all_of(*matches),
            **({"status_code": reply.status} if another_status else {}),
            "headers_to_add": _headers(reply.headers),
            "body_format_override": {"json_format": _json(reply)},
        },
    ]


# A transcoded request looks like gRPC too, and is told by the path that it came with.
ASKED_IN_GRPC: tuple[dict[str, Any], ...] = (
    {
        "header_filter": {
            "header": {"name": "content-type", "string_match": {"prefix": "application/grpc"}}
        }
    },
    {"header_filter": {"header": {"name": "x-envoy-original-path", "present_match": False}}},
)


def _status(reply: Reply) -> status_pb2.Status:
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=reply.reason, domain=DOMAIN)]
    if reply.retry_after_s:
        delay = duration_pb2.Duration(seconds=reply.retry_after_s)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed: list[any_pb2.Any] = []
    for detail in details:
        envelope = any_pb2.Any()
        envelope.Pack(detail)
        packed.append(envelope)
    return status_pb2.Status(code=reply.code, message=reply.message, details=packed)


def _json(reply: Reply) -> dict[str, Any]:
    # Empty maps too, as the transcoder prints them.
    return json_format.MessageToDict(_status(reply), always_print_fields_with_no_presence=True)


def _binary(reply: Reply) -> str:
    return base64.b64encode(_status(reply).SerializeToString()).decode().rstrip("=")


def _all_of(*filters: dict[str, Any]) -> dict[str, Any]:
    return {"and_filter": {"filters": list(filters)}}


def _status_is(comparison: str, status: int) -> dict[str, Any]:
    # Envoy wants a runtime key; nothing sets this one.
    value = {"default_value": status, "runtime_key": "chirp.unset"}
    return {"status_code_filter": {"comparison": {"op": comparison, "value": value}}}


def _cel(expression: str) -> dict[str, Any]:
    kind = "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"
    return {
        "extension_filter": {
            "name": "envoy.access_loggers.extension_filters.cel",
            "typed_config": {
                "@type": f"type.googleapis.com/{kind}",
                "expression": expression,
            },
        }
    }


def _headers(headers: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {
            "header": {"key": name, "value": value},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }
        for name, value in headers.items()
    ]
