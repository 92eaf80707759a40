"""Migrations only expand: the release before runs on the new schema, beside the new one. What takes
something away says which release stopped using it: `-- contract: 1.4.0 stopped using users.phone`.
"""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "storage" / "migrations").glob("*.sql"))
VERSION = re.compile(r"\d+\.\d+\.\d+")
CONTRACT = re.compile(rf"-- contract: ({VERSION.pattern}) stopped using \S+")

# What the release before reads may be gone, or what it writes be refused.
BREAKS = re.compile(
    r"\b(DROP|RENAME|TRUNCATE|SET NOT NULL|ALTER (COLUMN )?\w+ (SET DATA )?TYPE"
    r"|ADD (CONSTRAINT|CHECK|UNIQUE|PRIMARY|FOREIGN|EXCLUDE)"
    r"|ADD COLUMN (?![^,;]*\b(DEFAULT|GENERATED)\b)[^,;]*\bNOT NULL)\b",
    re.IGNORECASE,
)


def breaking(text: str) -> Iterator[tuple[str, str]]:
    """Yields each statement that the release before may not survive, and the release that stopped
    using what it takes away; empty where the lines above it name none."""
    code = comments = ""
    for line in text.splitlines():
        found = re.fullmatch(r"([^-]*(?:-(?!-)[^-]*)*)(--.*)?", line)
        assert found is not None
        code += f"{found[1]} "
        comments += f"{found[2] or ''}\n"
        if ";" in found[1]:
            statement = " ".join(code.split())
            if BREAKS.search(statement):
                named = CONTRACT.search(comments)
                yield statement, named[1] if named else ""
            code = comments = ""


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_migration_takes_nothing_away_that_the_release_before_uses(file: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    for statement, unused_since in breaking(file.read_text()):
        assert unused_since, f"{statement}: expand first, contract a release later"
        # What this release is the first not to use, the one before it still does.
        assert numbers(unused_since) < numbers(project["version"]), statement


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE likes",
        "ALTER TABLE users DROP COLUMN bio",
        "ALTER TABLE users RENAME COLUMN bio TO biography",
        "ALTER TABLE users ALTER COLUMN bio TYPE varchar(10)",
        "ALTER TABLE users ALTER bio SET DATA TYPE varchar(10)",
        "ALTER TABLE users ALTER COLUMN bio SET NOT NULL",
        "alter table users\n  add column phone text -- DEFAULT ''\n  NOT NULL",
        "ALTER TABLE users ADD CONSTRAINT short CHECK (length(bio) < 10)",
    ],
)
def test_what_breaks_the_release_before_is_found(statement: str) -> None:
    (found,) = breaking(f"CREATE TABLE tags (id bigint); -- DROP\n{statement};")
    assert found[1] == ""

    (found,) = breaking(f"-- contract: 0.1.0 stopped using users.bio.\n{statement};")
    assert found[1] == "0.1.0"


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE users ADD COLUMN phone text",
        "ALTER TABLE users ADD COLUMN phone text NOT NULL DEFAULT '', ADD COLUMN fax text",
        "CREATE TABLE tags (id bigint NOT NULL, dropped boolean)",
        "CREATE INDEX tags_by_id ON tags (id) -- not to DROP",
    ],
)
def test_what_only_adds_is_not(statement: str) -> None:
    assert list(breaking(f"{statement}\n;")) == []
