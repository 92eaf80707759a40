"""What `kubectl kustomize` makes of a folder, as far as our own folders need it: so that tests need
no kubectl. tests/unit/test_deploy.py compares the two where there is one."""

import copy
import re
from pathlib import Path
from typing import Any, cast

import yaml

Document = dict[str, Any]

# By what the elements of a list are told apart when two are merged.
MERGE_KEYS = {
    "containers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
}
KNOWN = {
    "apiVersion", "kind", "namespace", "labels", "resources", "components", "configMapGenerator",
    "generatorOptions", "patches", "images", "replicas",
}  # fmt: skip


def build(folder: Path) -> list[Document]:
    """Returns the documents of a kustomization. Names of generated ConfigMaps bear no hash."""
    return _build(folder, [])


def _build(folder: Path, under: list[Document]) -> list[Document]:
    said = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(said) <= KNOWN, set(said) - KNOWN
    found = list(under)
    for name in said.get("resources", ()):
        path = folder / name
        found += build(path.resolve()) if path.is_dir() else _read(path)
    for name in said.get("components", ()):
        found = _build((folder / name).resolve(), found)
    for each in said.get("configMapGenerator", ()):
        _generate(folder, each, found)
    for each in said.get("patches", ()):
        for patch in _read(folder / each["path"]):
            for document in _targets(found, patch, each.get("target")):
                _merge(document, {key: patch[key] for key in ("spec",)})
    for document in found:
        if "namespace" in said and document["kind"] != "Namespace":
            document["metadata"]["namespace"] = said["namespace"]
        for each in said.get("labels", ()):
            _label(document, each)
        if document["kind"] in {"Deployment", "Job"}:
            for each in said.get("images", ()):
                _name_image(document, each)
        for each in said.get("replicas", ()):
            if (document["kind"], document["metadata"]["name"]) == ("Deployment", each["name"]):
                document["spec"]["replicas"] = each["count"]
    return found


def _read(path: Path) -> list[Document]:
    return read(path.read_text())


def read(text: str) -> list[Document]:
    """Returns the documents of a file; with libyaml, as the larger ones take a second otherwise."""
    return [each for each in yaml.load_all(text, Loader=yaml.CSafeLoader) if each]


def _generate(folder: Path, said: Document, found: list[Document]) -> None:
    lines = list(said.get("literals", ()))
    for name in said.get("envs", ()):
        text = (folder / name).read_text()
        lines += [line for line in text.splitlines() if line and not line.startswith("#")]
    data = dict(line.split("=", 1) for line in lines)
    binary: dict[str, str] = {}
    for name in said.get("files", ()):
        content = (folder / name).read_bytes()
        (data if _is_text(content) else binary)[Path(name).name] = "..."
    if said.get("behavior") == "merge":
        (there,) = (
            each
            for each in found
            if (each["kind"], each["metadata"]["name"]) == ("ConfigMap", said["name"])
        )
        there["data"].update(data)
        return
    document: Document = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": said["name"]},
    }
    document |= ({"data": data} if data else {}) | ({"binaryData": binary} if binary else {})
    found.append(document)


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _targets(found: list[Document], patch: Document, target: Document | None) -> list[Document]:
    wanted = target or {"kind": patch["kind"], "name": f"^{patch['metadata']['name']}$"}
    chosen = [
        each
        for each in found
        if each["kind"] == wanted["kind"]
        and re.fullmatch(wanted.get("name", ".*").strip("^$"), each["metadata"]["name"])
    ]
    assert chosen, f"nobody is patched by {wanted}"
    return chosen


def _merge(into: Document, patch: Document) -> None:
    """Merges strategically: maps by key, lists that MERGE_KEYS knows by element; None removes."""
    for key, value in patch.items():
        if value is None:
            into.pop(key, None)
        elif isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], cast(Document, value))
        elif isinstance(value, list) and key in MERGE_KEYS and key in into:
            _merge_lists(into[key], cast(list[Document], value), MERGE_KEYS[key])
        else:
            into[key] = _without_none(copy.deepcopy(cast(Any, value)))


def _merge_lists(into: list[Document], patch: list[Document], by: str) -> None:
    for each in patch:
        same = next((old for old in into if old.get(by) == each.get(by)), None)
        if same is None:
            into.append(copy.deepcopy(each))
        else:
            _merge(same, each)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        known = cast(Document, value).items()
        return {key: _without_none(each) for key, each in known if each is not None}
    return value


def _label(document: Document, said: Document) -> None:
    pairs = said["pairs"]
    document["metadata"].setdefault("labels", {}).update(pairs)
    if said.get("includeTemplates") and document["kind"] in {"Deployment", "Job"}:
        document["spec"]["template"]["metadata"].setdefault("labels", {}).update(pairs)


def _name_image(document: Document, said: Document) -> None:
    for container in document["spec"]["template"]["spec"]["containers"]:
        if container["image"] == said["name"]:
            container["image"] = f"{said['newName']}:{said['newTag']}"
