"""What errors look like, and which statuses there are: mesh/errors.py and the gateway's own."""

from typing import Any

from mesh.errors import DOMAIN

Schema = dict[str, Any]

_TYPE = "type.googleapis.com/google.rpc."


def _detail(name: str, description: str, properties: Schema, required: list[str]) -> Schema:
    return {
        "type": "object",
        "description": description,
        "properties": {"@type": {"const": _TYPE + name}, **properties},
        "required": ["@type", *required],
    }


ERROR_SCHEMAS: dict[str, Schema] = {
    "Status": {
        "type": "object",
        "description": "An error: google.rpc.Status.",
        "properties": {
            "code": {
                "type": "integer",
                "description": "google.rpc.Code, such as 3 for INVALID_ARGUMENT.",
            },
            "message": {"type": "string", "description": "For developers, in English."},
            "details": {
                "type": "array",
                "minItems": 1,
                "description": "Exactly one ErrorInfo, and what helps beside it.",
                "items": {
                    "anyOf": [
                        {"$ref": f"#/components/schemas/{name}"}
                        for name in ("ErrorInfo", "BadRequest", "RetryInfo")
                    ]
                },
            },
        },
        "required": ["code", "message", "details"],
    },
    "ErrorInfo": _detail(
        "ErrorInfo",
        "What went wrong, for programs.",
        {"reason": {"type": "string"}, "domain": {"const": DOMAIN}},
        ["reason", "domain"],
    ),
    "BadRequest": _detail(
        "BadRequest",
        "Which fields are wrong, and why.",
        {
            "fieldViolations": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "field": {"type": "string"},
                        "description": {"type": "string"},
                    },
                },
            }
        },
        [],
    ),
    "RetryInfo": _detail(
        "RetryInfo",
        "When to try again.",
        {"retryDelay": {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?s$"}},
        [],
    ),
}

_ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/Status"}}}
_RETRY_AFTER = {
    "headers": {"Retry-After": {"description": "In seconds.", "schema": {"type": "string"}}}
}

_RATE_LIMIT = {
    "headers": {
        **_RETRY_AFTER["headers"],
        "RateLimit": {
            "description": "What is left (r) and when more is (t, seconds).",
            "schema": {"type": "string"},
        },
        "RateLimit-Policy": {
            "description": "The quota (q) and its window (w, seconds).",
            "schema": {"type": "string"},
        },
    }
}

RESPONSES: dict[str, Schema] = {
    status: {"description": description, "content": _ERROR, **headers}
    for status, description, headers in (
        ("400", "What was sent is wrong: which field, and why.", {}),
        ("401", "A token is missing, or not valid.", {}),
        ("403", "Not yours to do, or blocked.", {}),
        ("404", "Not there, or deleted; or no such route.", {}),
        ("408", "The request did not arrive in time.", {}),
        ("409", "Taken.", {}),
        ("413", "The body is too large.", {}),
        ("429", "Too many calls: of this account or address, or of all.", _RATE_LIMIT),
        ("431", "URL and headers are too large.", {}),
        ("500", "An error of ours.", {}),
        ("503", "A part is down.", _RETRY_AFTER),
        ("504", "It took too long.", {}),
    )
}
