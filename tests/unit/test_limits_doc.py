"""docs/limits.md names tests that are there, and the defaults that hold."""

import ast
import re
from pathlib import Path

from mesh.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "limits.md").read_text()
NAMED = re.compile(r"`(tests/[\w/]+\.py)?(?:::(\w+))?`")


def functions(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_every_test_that_the_page_names_is_there():
    path, found = "", 0
    for match in NAMED.finditer(TEXT):
        path = match[1] or path
        if match[2]:
            found += 1
            assert match[2] in functions(path), f"{path} has no {match[2]}"
        else:
            assert (ROOT / path).is_file()

    assert found > 25


def test_the_page_has_every_rate_and_its_default():
    settings = Settings()
    rates = {
        name: str(value)
        for name, value in settings.model_dump().items()
        if name.startswith("rate_") and re.fullmatch(r"\d+/\d+", str(value))
    }

    rows = dict(re.findall(r"\| `CHIRP_(RATE_\w+)` \| (\d+/\d+) \|", TEXT))

    assert rows == {name.upper(): value for name, value in rates.items()}
