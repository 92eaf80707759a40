"""Writes gateway/openapi.json and gateway/docs.html, which the gateway serves at /api/openapi.json
and /api/docs.

    python -m ops.openapi generate    writes both
    python -m ops.openapi check       exits with 1 where one is stale or not valid OpenAPI 3.1
"""

import json
import sys
import tempfile
import tomllib
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from ops import openapi_page, protos
from ops.gateway import DOCUMENT, PAGE
from ops.openapi_document import Document, Schema

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: list[str]) -> int:
    """Runs one of the commands; returns the exit status."""
    if arguments not in (["generate"], ["check"]):
        print(__doc__, file=sys.stderr)
        return 2
    document = make()
    files = {
        DOCUMENT: json.dumps(document, indent=1, ensure_ascii=False) + "\n",
        PAGE: openapi_page.render(document),
    }
    if arguments == ["generate"]:
        for path, content in files.items():
            path.write_text(content)
        return 0
    stale = [p.name for p, content in files.items() if not p.exists() or p.read_text() != content]
    for name in stale:
        print(f"gateway/{name} is stale: run `make gen` and commit the result", file=sys.stderr)
    # A tool of developers: the gateway only serves what was written.
    from openapi_spec_validator import OpenAPIV31SpecValidator

    problems = list(OpenAPIV31SpecValidator(document).iter_errors())
    for problem in problems:
        print(f"gateway/openapi.json: {problem}", file=sys.stderr)
    return 1 if stale or problems else 0


def make() -> Schema:
    """Returns the document of the protos as they are."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.binpb"
        protos.protoc(
            "--include_imports",
            "--include_source_info",
            f"--descriptor_set_out={image}",
            *protos.proto_files(),
        )
        files = FileDescriptorSet.FromString(image.read_bytes())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return Document(files).make(project["version"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
