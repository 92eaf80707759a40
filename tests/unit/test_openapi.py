"""The OpenAPI document says of every route what the gateway does."""

import json
import re
from html.parser import HTMLParser
from typing import Any

from chirp.v1 import (
    graph_pb2,
    notification_pb2,
    timeline_pb2,
    trend_pb2,
    tweet_pb2,
    user_pb2,
)
from google.api import annotations_pb2

from mesh.access import RULES, Access
from ops import gateway, openapi, openapi_page

FILES = (graph_pb2, notification_pb2, timeline_pb2, trend_pb2, tweet_pb2, user_pb2)
DOCUMENT: dict[str, Any] = json.loads(gateway.DOCUMENT.read_text())


def routes() -> set[tuple[str, str, str]]:
    """Every route in the protos: verb, path, RPC."""
    found: set[tuple[str, str, str]] = set()
    for file in FILES:
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                options = method.GetOptions()
                if options.HasExtension(annotations_pb2.http):
                    rule = options.Extensions[annotations_pb2.http]
                    for each in (rule, *rule.additional_bindings):
                        verb = str(each.WhichOneof("pattern"))
                        rpc = f"/{service.full_name}/{method.name}"
                        found.add((verb, getattr(each, verb), rpc))
    return found


def operations() -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (verb, path): operation
        for path, item in DOCUMENT["paths"].items()
        for verb, operation in item.items()
    }


def test_every_route_of_the_protos_is_there_and_no_other():
    assert {(verb, path) for verb, path, _ in routes()} == set(operations())


def test_every_operation_says_whether_it_needs_a_token():
    for verb, path, rpc in routes():
        security = operations()[verb, path]["security"]
        assert ({} in security) == (RULES[rpc] is Access.OPEN), path


def test_every_parameter_in_a_path_is_described():
    for (_, path), operation in operations().items():
        in_path = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path))


def test_64_bit_integers_are_strings_and_fields_without_presence_are_required():
    tweet = DOCUMENT["components"]["schemas"]["Tweet"]
    assert tweet["properties"]["likeCount"]["type"] == "string"
    assert {"id", "mediaUrls", "likeCount"} <= set(tweet["required"])
    assert not {"liked", "quotedTweet", "author", "createdAt"} & set(tweet["required"])


def test_descriptions_name_fields_as_json_does():
    for text in re.findall(r'"description": "(.*)"', gateway.DOCUMENT.read_text()):
        assert not re.search(r"`[a-z]+_[a-z_]+`", text.replace("`access_token`", "")), text


def test_the_document_is_made_of_the_protos_as_they_are():
    assert openapi.make() == DOCUMENT


def test_the_page_links_to_nothing_that_is_not_there():
    targets: set[str] = set()
    links: set[str] = set()

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            values = dict(attrs)
            assert tag not in {"script", "link", "img", "iframe"}
            targets.add(values.get("id") or "")
            links.add(values.get("href") or "")

    Reader().feed(openapi_page.render(DOCUMENT))
    assert {link for link in links if not link.startswith("#")} <= {"", "/api/openapi.json"}
    assert {link[1:] for link in links if link.startswith("#")} <= targets
