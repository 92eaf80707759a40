"""The OpenAPI 3.1 document of what the gateway serves, made from the protos.

What Envoy's transcoder does stands here once: 64-bit integers are strings, names are in
lowerCamelCase, enums are their names, fields without presence are always there, and one of a
`oneof` is. Comments become descriptions; what is required, and what is open, come from the same
comments and rules that the servers go by.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple, cast

from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import (
    Descriptor,
    EnumDescriptor,
    FieldDescriptor,
    MethodDescriptor,
    ServiceDescriptor,
)
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from domain import tweet, user
from domain.trend import Order
from mesh.access import RULES, Access
from ops.openapi_errors import ERROR_SCHEMAS, RESPONSES
from servers.tweet_service import BATCH_MAX

Schema = dict[str, Any]

SERVICES = ("User", "Tweet", "Timeline", "Graph", "Trend", "Notification")
INT64 = "^-?[0-9]{1,19}$"
AN_ID = "^[1-9][0-9]{0,18}$"
_STRING = {"minLength": 1}

# What proto comments say in words and a schema can say too, by message and field.
LIMITS: Mapping[str, Schema] = {
    "CreateTweetRequest.content": _STRING | {"maxLength": tweet.CONTENT_MAX},
    "CreateTweetRequest.media_urls": {"maxItems": tweet.MEDIA_URLS_MAX},
    "CreateTweetRequest.request_id": {"maxLength": tweet.REQUEST_ID_MAX},
    "PostTweetRequest.content": _STRING | {"maxLength": tweet.CONTENT_MAX},
    "PostTweetRequest.media": {"maxItems": tweet.MEDIA_URLS_MAX},
    "CreateUserRequest.username": {
        "pattern": f"^[A-Za-z0-9_]{{{user.USERNAME_LENGTH_MIN},{user.USERNAME_LENGTH_MAX}}}$"
    },
    "CreateUserRequest.password": {
        "minLength": user.PASSWORD_LENGTH_MIN,
        "maxLength": user.PASSWORD_LENGTH_MAX,
    },
    "CreateUserRequest.display_name": {"maxLength": user.DISPLAY_NAME_LENGTH_MAX},
    "CreateUserRequest.bio": {"maxLength": user.BIO_LENGTH_MAX},
    "UpdateMeRequest.display_name": {"maxLength": user.DISPLAY_NAME_LENGTH_MAX},
    "UpdateMeRequest.bio": {"maxLength": user.BIO_LENGTH_MAX},
    "BatchGetTweetsRequest.ids": {"minItems": 1, "maxItems": BATCH_MAX},
    "DeleteMeRequest.password": _STRING,
}

ABOUT = """Chirp through its gateway. Every call here is also there as gRPC and gRPC-Web, on the
same port, under the name of its operation.

- 64-bit integers are strings; times are RFC 3339 in UTC; an enum is its name.
- Lists take `limit` (more than the most means the most, less than 1 is an error) and `cursor`,
  which is opaque and holds for ever, and answer `nextCursor` and `hasMore`.
- Unknown query parameters are an error; unknown fields of a JSON body are ignored. A wrong method
  on a known path is 404.
- A body has at most 64 KiB, URL and headers together 16 KiB; text is kept in Unicode's NFC, and its
  length is counted in code points after that.
- Streams answer one JSON object a line, or server-sent events where `Accept` has
  `text/event-stream`, and at least a heartbeat every 15 seconds. Where a header cannot be set, the
  token of a stream may come as `access_token` in the query.
"""


class Route(NamedTuple):
    """One way to call a method."""

    verb: str
    path: str
    body: bool


class Document:
    """Makes the document of one descriptor set, which must hold comments."""

    def __init__(self, files: FileDescriptorSet) -> None:
        self._files = files
        self._schemas: dict[str, Schema] = {}

    def make(self, version: str) -> Schema:
        """Returns the document."""
        paths: dict[str, Schema] = {}
        tags: list[Schema] = []
        for name in SERVICES:
            service = self._pool.FindServiceByName(f"chirp.v1.{name}Service")
            tags.append({"name": service.name, "description": self._comment(service)})
            for method in service.methods:
                for number, route in enumerate(_routes(method)):
                    operation = self._operation(method, route, number)
                    paths.setdefault(route.path, {})[route.verb] = operation
        return {
            "openapi": "3.1.0",
            "info": {"title": "Chirp", "version": version, "description": ABOUT},
            "servers": [{"url": "/"}],
            "tags": tags,
            "paths": paths,
            "components": {
                "securitySchemes": {
                    "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
                },
                "responses": RESPONSES,
                "schemas": dict(sorted((self._schemas | ERROR_SCHEMAS).items())),
            },
        }

    @cached_property
    def _pool(self) -> descriptor_pool.DescriptorPool:
        # A pool of its own: the one of the process has the files without their comments.
        pool = descriptor_pool.DescriptorPool()
        for file in self._files.file:
            pool.Add(file)
        return pool

    @cached_property
    def _comments(self) -> dict[str, str]:
        return dict(_comments(self._files))

    def _comment(
        self, thing: ServiceDescriptor | MethodDescriptor | Descriptor | FieldDescriptor
    ) -> str:
        # Protos name fields as Python does, JSON as JavaScript does.
        return re.sub(r"`[a-z]+(_[a-z]+)+`", _as_in_json, self._comments.get(thing.full_name, ""))

    def _operation(self, method: MethodDescriptor, route: Route, number: int) -> Schema:
        comment = self._comment(method)
        in_path = re.findall(r"{(\w+)}", route.path)
        asked = [f for f in method.input_type.fields if f.name not in in_path]
        parameters = [self._parameter(method.input_type.fields_by_name[n], "path") for n in in_path]
        operation: Schema = {
            "operationId": f"{method.containing_service.name}.{method.name}"
            + (f".{number + 1}" if number else ""),
            "tags": [method.containing_service.name],
            "summary": re.split(r"\.(?:\s|$)", comment, maxsplit=1)[0],
            "description": comment,
        }
        open_to_all = RULES[f"/{method.containing_service.full_name}/{method.name}"] is Access.OPEN
        operation["security"] = [{"token": []}, *([{}] if open_to_all else [])]
        if route.body:
            operation["requestBody"] = {
                "required": True,
                "content": {"application/json": {"schema": self._reference(method.input_type)}},
            }
        else:
            parameters += [self._parameter(field, "query") for field in asked]
        if method.server_streaming:
            parameters.append(_TOKEN_IN_URL)
        if parameters:
            operation["parameters"] = parameters
        operation["responses"] = {"200": self._answer(method), **_ERRORS}
        return operation

    def _parameter(self, field: FieldDescriptor, place: str) -> Schema:
        schema = self._field(field)
        description = schema.pop("description", "")
        required = place == "path" or description.startswith("Required.")
        return {
            "name": field.json_name,
            "in": place,
            "required": required,
            "description": description,
            "schema": schema,
        }

    def _answer(self, method: MethodDescriptor) -> Schema:
        if method.output_type.full_name == "google.api.HttpBody":
            schema = {"type": "object", "properties": {"keys": {"type": "array"}}}
            return {
                "description": "The key set.",
                "content": {"application/json": {"schema": schema}},
            }
        schema = self._reference(method.output_type)
        answer: Schema = {
            "description": self._comment(method.output_type),
            "content": {"application/json": {"schema": schema}},
        }
        if method.server_streaming:
            answer["description"] += " One a line, or one an event."
            answer["content"]["text/event-stream"] = {"schema": schema}
        return answer

    def _reference(self, message: Descriptor) -> Schema:
        if message.name not in self._schemas:
            self._schemas[message.name] = {}  # a tweet holds tweets
            self._schemas[message.name] = self._message(message)
        return {"$ref": f"#/components/schemas/{message.name}"}

    def _message(self, message: Descriptor) -> Schema:
        properties = {field.json_name: self._field(field) for field in message.fields}
        asked = message.name.endswith("Request")
        required = [
            field.json_name
            for field in message.fields
            if (self._comment(field).startswith("Required.") if asked else _is_always_there(field))
        ]
        schema: Schema = {"type": "object", "description": self._comment(message)}
        if properties:
            schema["properties"] = properties
        if required:
            schema["required"] = required
        if not asked:
            schema["additionalProperties"] = False
        if any(len(group.fields) > 1 for group in message.oneofs):
            schema["minProperties"] = schema["maxProperties"] = 1
        return schema

    def _field(self, field: FieldDescriptor) -> Schema:
        schema = self._value(field)
        limits = LIMITS.get(f"{cast(Descriptor, field.containing_type).name}.{field.name}", {})
        if field.name == "limit":
            limits = {"minimum": 1}
        elif field.name == "order":
            limits = {"enum": ["", *(order.value for order in Order)]}
        if field.is_repeated:
            schema = {"type": "array", "items": schema}
        return {**schema, **limits, "description": self._comment(field)}

    def _value(self, field: FieldDescriptor) -> Schema:
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_INT64:
                # A number that somebody must send is an id, and ids are positive.
                asked = self._comment(field).startswith("Required.")
                return {"type": "string", "format": "int64", "pattern": AN_ID if asked else INT64}
            case FieldDescriptor.CPPTYPE_INT32 | FieldDescriptor.CPPTYPE_UINT32:
                return {"type": "integer", "format": "int32"}
            case FieldDescriptor.CPPTYPE_DOUBLE:
                unusual = {"enum": ["Infinity", "-Infinity", "NaN"]}
                return {"anyOf": [{"type": "number", "format": "double"}, unusual]}
            case FieldDescriptor.CPPTYPE_BOOL:
                return {"type": "boolean"}
            case FieldDescriptor.CPPTYPE_ENUM:
                return {"type": "string", "enum": _names(cast(EnumDescriptor, field.enum_type))}
            case FieldDescriptor.CPPTYPE_STRING:
                return {"type": "string"}
            case _:
                message = cast(Descriptor, field.message_type)
                if message.full_name == "google.protobuf.Timestamp":
                    return {"type": "string", "format": "date-time"}
                return self._reference(message)


_TOKEN_IN_URL: Schema = {
    "name": "access_token",
    "in": "query",
    "required": False,
    "description": "An access token, where the Authorization header cannot be set.",
    "schema": {"type": "string"},
}
_ERRORS = {status: {"$ref": f"#/components/responses/{status}"} for status in RESPONSES}


def _as_in_json(name: re.Match[str]) -> str:
    return re.sub("_([a-z])", lambda letter: letter[1].upper(), name[0])


def _routes(method: MethodDescriptor) -> Iterator[Route]:
    rule: http_pb2.HttpRule = cast(Any, method.GetOptions()).Extensions[annotations_pb2.http]
    for each in (rule, *rule.additional_bindings):
        verb = each.WhichOneof("pattern")
        assert verb is not None, f"{method.full_name} has no route"
        yield Route(verb, getattr(each, verb), bool(each.body))


def _is_always_there(field: FieldDescriptor) -> bool:
    return field.is_repeated or not field.has_presence


def _names(enum: EnumDescriptor) -> list[str]:
    return [value.name for value in enum.values]


def _comments(files: FileDescriptorSet) -> Iterator[tuple[str, str]]:
    """Yields full names with their comments. Paths are those of FileDescriptorProto's fields:
    messages 4, their fields 2, services 6, their methods 2."""
    for file in files.file:
        names: dict[tuple[int, ...], str] = {}
        for i, message in enumerate(file.message_type):
            names[4, i] = f"{file.package}.{message.name}"
            for j, field in enumerate(message.field):
                names[4, i, 2, j] = f"{file.package}.{message.name}.{field.name}"
        for i, service in enumerate(file.service):
            names[6, i] = f"{file.package}.{service.name}"
            for j, method in enumerate(service.method):
                names[6, i, 2, j] = f"{file.package}.{service.name}.{method.name}"
        for location in file.source_code_info.location:
            name = names.get(tuple(location.path))
            if name:
                yield name, " ".join(location.leading_comments.split())
