"""What trends must be: a plain recount of the tweets in PostgreSQL that knows nothing of windows,
rows, events or caches."""

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from domain.trend import Listed, Rules, Statistic
from storage.database import Pool

MINUTE_MS = 60_000
# Under which two authors make a trend, of whatever surprise.
RULES = Rules(
    authors_min=2,
    place_tags_min=1,
    statistic=Statistic.CHI_SQUARED,
    baseline_min=1.0,
    overdispersion=0.1,
    surprise_min=0.0,
)


@dataclass(frozen=True)
class Counted:
    """One tag at one place."""

    buckets: list[int]
    authors: int


class TrendOracle:
    """The whole truth as of one moment."""

    def __init__(self, rows: Sequence[tuple[int, int, int, str, str]], now_ms: int) -> None:
        uses: dict[tuple[str, str], dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
        spelled: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for _, author, created_ms, location, content in rows:
            ago = now_ms // MINUTE_MS - created_ms // MINUTE_MS
            if not 0 <= ago < 120:
                continue
            first: dict[str, str] = {}
            for spelling in re.findall(r"#(\w+)", content):
                folded = unicodedata.normalize("NFKC", spelling).casefold()
                first.setdefault(folded, spelling)
            for name, spelling in first.items():
                spelled[name][spelling] += 1
                for place in {"world", location or "world", location.split("-")[0] or "world"}:
                    uses[place, name][ago].add(author)
        self.counted: Mapping[tuple[str, str], Counted] = {
            key: Counted(
                [len(minutes.get(ago, ())) for ago in range(120)],
                len(set[int]().union(*(who for ago, who in minutes.items() if ago < 60))),
            )
            for key, minutes in uses.items()
        }
        self.tags = {
            name: min(spellings, key=lambda each: (-spellings[each], each))
            for name, spellings in spelled.items()
        }

    def ranked(self, place: str, order: str, rules: Rules) -> list[Listed]:
        """Returns the list of one place, whether or not it is sparse."""
        least = rules.surprise_min
        lines = [
            listed
            for (where, name), counted in self.counted.items()
            if where == place
            and (listed := self._listed(name, counted, rules)).authors >= rules.authors_min
            and (order == "score" or (listed.surprise > 0 and listed.surprise >= least))
        ]
        return sorted(
            lines,
            key=lambda line: (-(line.score if order == "score" else line.surprise), line.name),
        )

    def answer(self, place: str, order: str, rules: Rules) -> tuple[str, list[Listed]]:
        """Returns the place whose list answers, and the list."""
        for candidate in (place, place.split("-")[0], "world"):
            tags = len(self.ranked(candidate, "score", rules))
            if tags >= rules.place_tags_min or candidate == "world":
                return candidate, self.ranked(candidate, order, rules)
        raise AssertionError("the world always answers")

    def _listed(self, name: str, counted: Counted, rules: Rules) -> Listed:
        this, last = sum(counted.buckets[:60]), sum(counted.buckets[60:])
        expected = max(float(last), rules.baseline_min)
        above = max(this - expected, 0.0)
        from_nothing = math.inf if this > 10 else 0.0
        return Listed(
            name,
            self.tags[name],
            math.fsum(count * 0.95**i for i, count in enumerate(counted.buckets[:60])),
            this,
            (this - last) / last if last else from_nothing,
            counted.authors,
            above**2 / (expected + rules.overdispersion * expected**2),
        )


async def recount(pool: Pool, now_ms: int) -> TrendOracle:
    """Reads all tweets and counts them."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT id, author_id, (extract(epoch FROM created_at) * 1000)::bigint, location,"
            " content FROM tweets WHERE deleted_at IS NULL"
        )
        return TrendOracle([tuple(row) for row in await cursor.fetchall()], now_ms)
