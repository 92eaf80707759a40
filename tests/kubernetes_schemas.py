"""The schemas of Kubernetes 1.37, of the Gateway API and of Envoy Gateway: tests/schemas/reduce.py
says where they are from."""

import json
from pathlib import Path
from typing import Any

import jsonschema

_FOLDER = Path(__file__).resolve().parent / "schemas"
_DEFINITIONS = {
    name: json.loads((_FOLDER / f"{name}.json").read_text()) for name in ("kubernetes", "gateway")
}
_PACKAGES = {"gateway.envoyproxy.io/v1alpha1": "envoy", "gateway.networking.k8s.io/v1": "api"}


def validate(document: dict[str, Any]) -> None:
    """Raises jsonschema.ValidationError where a document is not what its kind wants, or has a field
    that its kind does not know."""
    version, kind = document["apiVersion"], document["kind"]
    if version in _PACKAGES:
        name, definitions = f"{_PACKAGES[version]}.{kind}", _DEFINITIONS["gateway"]
    else:
        family, _, release = version.rpartition("/")
        group = family.removesuffix(".k8s.io") or "core"
        name, definitions = f"io.k8s.api.{group}.{release}.{kind}", _DEFINITIONS["kubernetes"]
    schema = {"$ref": f"#/$defs/{name}", "$defs": definitions}
    jsonschema.Draft202012Validator(schema).validate(document)
