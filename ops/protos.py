"""Generates gen/ from protos/, and says when it is stale.

    python -m ops.protos generate     writes gen/
    python -m ops.protos check        exits with 1 where gen/ differs from what protos/ give
    python -m ops.protos lint         buf lint: names, and a comment on everything
    python -m ops.protos breaking     buf breaking: against what git has of the last two commits

What lies in gen/: `chirp/v1/*_pb2.py` (messages), `*_pb2_grpc.py` (stubs), a `.pyi` for each, and
`descriptor.binpb`, the FileDescriptorSet that Envoy's transcoder reads.
"""

import filecmp
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GEN = ROOT / "gen"
OURS = ("--path", "chirp")


def main(arguments: list[str]) -> int:
    """Runs one of the commands; returns the exit status."""
    if arguments == ["generate"]:
        shutil.rmtree(GEN, ignore_errors=True)
        _generate_into(GEN)
        return 0
    if arguments == ["check"]:
        with tempfile.TemporaryDirectory() as folder:
            fresh = Path(folder) / "gen"
            _generate_into(fresh)
            stale = _differences(fresh, GEN)
        for name in stale:
            print(f"gen/{name} is stale: run `make gen` and commit the result", file=sys.stderr)
        return 1 if stale else 0
    if arguments in (["lint"], ["breaking"]):
        with tempfile.TemporaryDirectory() as folder:
            image = Path(folder) / "image.binpb"
            protoc(
                "--include_imports",
                "--include_source_info",
                f"--descriptor_set_out={image}",
                *proto_files(),
            )
            return _lint(image) if arguments == ["lint"] else _breaking(image)
    print(__doc__, file=sys.stderr)
    return 2


def include_paths() -> list[str]:
    """Where protoc finds our protos and those of Google that they import."""
    common = importlib.util.find_spec("google.api")
    tools = importlib.util.find_spec("grpc_tools")
    assert common is not None and common.submodule_search_locations
    assert tools is not None and tools.origin is not None
    google = Path(next(iter(common.submodule_search_locations))).parent.parent
    return [str(PROTOS), str(google), str(Path(tools.origin).parent / "_proto")]


def proto_files() -> list[str]:
    """Our proto files, relative to protos/."""
    return sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.rglob("*.proto"))


def protoc(*arguments: str) -> None:
    """Runs protoc with our include paths; raises CalledProcessError where it fails."""
    includes = [f"-I{path}" for path in include_paths()]
    # The plugins for the .pyi files stand beside this interpreter, which need not be on the PATH.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", *includes, *arguments],
        check=True,
        env={**os.environ, "PATH": path},
    )


def _lint(image: Path) -> int:
    return _buf("lint", str(image), *OURS)


def _breaking(image: Path) -> int:
    # HEAD for a change that is not committed yet, the one before for the commit that CI looks at.
    for revision in ("HEAD", "HEAD~1"):
        shown = subprocess.run(
            ["git", "show", f"{revision}:gen/descriptor.binpb"],  # noqa: S607 -- the user's git
            cwd=ROOT,
            capture_output=True,
            check=False,
        )
        if shown.returncode != 0:
            print(f"buf breaking: {revision} has no protos to compare with", file=sys.stderr)
            continue
        former = image.with_name("former.binpb")
        former.write_bytes(shown.stdout)
        status = _buf("breaking", str(image), "--against", str(former), *OURS)
        if status != 0:
            return status
    return 0


def _buf(*arguments: str) -> int:
    # buf reads images and never the network; the imported protos of Google are not ours to lint.
    buf = Path(sys.executable).parent / "buf"
    done = subprocess.run(
        [str(buf), *arguments, "--config", str(ROOT / "buf.yaml")], cwd=ROOT, check=False
    )
    return done.returncode


def _generate_into(folder: Path) -> None:
    folder.mkdir(parents=True)
    out = str(folder)
    protoc(
        f"--python_out={out}",
        f"--grpc_python_out={out}",
        f"--mypy_out=quiet:{out}",
        f"--mypy_grpc_out=quiet:{out}",
        *proto_files(),
    )
    # Envoy needs the descriptors of the error details too, to print them as JSON.
    protoc(
        "--include_imports",
        f"--descriptor_set_out={folder / 'descriptor.binpb'}",
        *proto_files(),
        "google/rpc/status.proto",
        "google/rpc/error_details.proto",
    )
    for package in (folder / "chirp", folder / "chirp" / "v1"):
        (package / "__init__.py").touch()


def _differences(fresh: Path, kept: Path) -> list[str]:
    def names(folder: Path) -> set[str]:
        return {
            path.relative_to(folder).as_posix()
            for path in folder.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }

    every = names(fresh) | names(kept)
    return sorted(
        name
        for name in every
        if not (fresh / name).exists()
        or not (kept / name).exists()
        or not filecmp.cmp(fresh / name, kept / name, shallow=False)
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
