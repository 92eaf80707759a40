"""What home reads found, in numbers."""

from mesh import catalogue, metrics
from mesh.metrics import Sample


class HomeCounts:
    """Plain integers: the hot path adds to them."""

    __slots__ = (
        "database_reads", "quick_pages", "recents", "recents_absent", "timelines",
        "timelines_absent",
    )  # fmt: skip

    def __init__(self) -> None:
        self.timelines = 0
        """Windows of home timelines that were looked at."""
        self.timelines_absent = 0
        self.recents = 0
        """Windows of pulled authors."""
        self.recents_absent = 0
        self.database_reads = 0
        self.quick_pages = 0

    async def collect(self) -> list[Sample]:
        """Returns them as metrics."""
        samples = [
            Sample(catalogue.HOME_DATABASE_READS, self.database_reads),
            Sample(catalogue.HOME_QUICK_PAGES, self.quick_pages),
        ]
        for cache, looked, absent in (
            ("timelines", self.timelines, self.timelines_absent),
            ("recents", self.recents, self.recents_absent),
        ):
            samples += metrics.of_cache(
                catalogue.CACHE_LOOKUPS, cache, hits=looked - absent, misses=absent
            )
        return samples
