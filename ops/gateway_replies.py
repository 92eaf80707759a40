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

from mesh.errors import DOMAIN, RETRY_AFTER_S, UNAVAILABLE_TEXT


class Reply(NamedTuple):
    """What Envoy says when it answers by itself with an HTTP status."""

    status: int
    code: int
    reason: str
    message: str
    headers: Mapping[str, str] = {}
    retry: bool = False


LATE = "the call took too long"
RETRY_AFTER = {"retry-after": str(RETRY_AFTER_S)}

UNREADABLE = Reply(400, code.INVALID_ARGUMENT, "INVALID_ARGUMENT", "the request is not valid")
FAILED = Reply(500, code.INTERNAL, "INTERNAL", "internal error")
NO_ROUTE = Reply(404, code.NOT_FOUND, "NOT_FOUND", "no such route")
OVERLOADED = Reply(
    429, code.RESOURCE_EXHAUSTED, "OVERLOADED", "too many calls; try again", RETRY_AFTER, retry=True
)
TIMED_OUT = Reply(504, code.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", LATE)
UNAVAILABLE = Reply(503, code.UNAVAILABLE, "UNAVAILABLE", UNAVAILABLE_TEXT, RETRY_AFTER, retry=True)

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
    Reply(431, code.INVALID_ARGUMENT, "TOO_LARGE", "the headers are larger than 16 KiB"),
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
BARE_ERRORS = (
    OVERLOADED,
    TIMED_OUT,
    UNAVAILABLE,
    FAILED,
    FAILED._replace(code=code.UNKNOWN),
    NO_ROUTE._replace(code=code.UNIMPLEMENTED),
)


def local_replies() -> list[dict[str, Any]]:
    """Returns the mappers of local_reply_config: for each reply one that answers in gRPC's
    trailers-only form, and one that answers JSON."""
    mappers = [
        {
            "filter": _all_of(_status_is("EQ", 400), _cel(FROM_TRANSCODER)),
            "body_format_override": {"json_format": _json(NOT_TRANSCODED)},
        }
    ]
    rows = [("EQ", reply) for reply in REPLIES] + [("GE", reply) for reply in REST_OF_REPLIES]
    for comparison, reply in rows:
        matches = _status_is(comparison, reply.status)
        # For gRPC a method that is not there is UNIMPLEMENTED, and only a thing is NOT_FOUND.
        grpc = reply._replace(code=code.UNIMPLEMENTED) if reply is NO_ROUTE else reply
        # Envoy's own mapping from HTTP statuses would say INTERNAL for 400 and UNKNOWN for 413.
        headers = {"grpc-status": str(grpc.code), "grpc-status-details-bin": _binary(grpc)}
        mappers += [
            {
                "filter": _all_of(matches, *ASKED_IN_GRPC),
                "headers_to_add": _headers({**reply.headers, **headers}),
                "body_format_override": {"text_format_source": {"inline_string": reply.message}},
            },
            {
                "filter": matches,
                "headers_to_add": _headers(reply.headers),
                "body_format_override": {"json_format": _json(reply)},
            },
        ]
    return [*_token_mappers(), *mappers]


def _token_mappers() -> list[dict[str, Any]]:
    """Returns the mappers of what jwt_authn refuses by another status than the servers would: 403
    for another's audience, and 401 where it was never told of any key."""
    mappers: list[dict[str, Any]] = []
    for match, reply in (
        (_cel(NO_KEYS), UNAVAILABLE),
        (_all_of(_status_is("EQ", 403), _cel(FROM_TOKENS)), NOT_SIGNED_IN),
    ):
        headers = {"grpc-status": str(reply.code), "grpc-status-details-bin": _binary(reply)}
        mappers += [
            {
                "filter": _all_of(match, *ASKED_IN_GRPC),
                "headers_to_add": _headers({**reply.headers, **headers}),
                "body_format_override": {"text_format_source": {"inline_string": reply.message}},
            },
            {
                "filter": match,
                "status_code": reply.status,
                "headers_to_add": _headers(reply.headers),
                "body_format_override": {"json_format": _json(reply)},
            },
        ]
    return mappers


def bare_errors() -> str:
    """Returns the Lua program that gives details to an answer that is an error without them."""
    rows = "".join(
        f'  ["{reply.code}"] = {{"{reply.message}", "{_binary(reply)}", '
        f"{str(reply.retry).lower()}}},\n"
        for reply in BARE_ERRORS
    )
    return f"""local errors = {{
{rows}}}
function envoy_on_response(response)
  local headers = response:headers()
  local bare = errors[headers:get("grpc-status")]
  if bare and not headers:get("grpc-status-details-bin") then
    headers:replace("grpc-message", bare[1])
    headers:replace("grpc-status-details-bin", bare[2])
    if bare[3] then headers:replace("retry-after", "{RETRY_AFTER_S}") end
  end
end
"""


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
    if reply.retry:
        delay = duration_pb2.Duration(seconds=RETRY_AFTER_S)
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
