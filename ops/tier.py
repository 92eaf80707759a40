"""`chirp tier USER`: which tier an account is in, how far the next lines are, how it came there,
and how its next tweet reaches its followers."""

from collections.abc import Sequence
from datetime import UTC

from chirp.v1 import events_pb2
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from domain import fanout
from domain.tier import Thresholds, Tier, falls_below, next_tier, rises_at
from mesh.settings import Settings
from ops import accounts
from storage import database, tier_changes
from storage.tier_changes import TierChangeRow
from storage.users import UserRow

HISTORY_SHOWN = 50

NAMES = {Tier.NORMAL: "normal", Tier.INFLUENCER: "influencer", Tier.CELEBRITY: "celebrity"}

# By the numbers that are stamped on tweets.
WAYS = {
    int(events_pb2.DELIVERY_PUSH): (
        "is pushed to all followers: fan-out puts it into each of their home timelines that is kept"
    ),
    int(events_pb2.DELIVERY_PUSH_ACTIVE): (
        "is pushed to the active followers: fan-out puts it into the home timelines of those who"
        " read lately; the others pull it when they read again"
    ),
    int(events_pb2.DELIVERY_PULL): (
        "is pulled: fan-out pushes it to nobody, each follower's read fetches it from the author"
    ),
}


async def show(settings: Settings, user: str) -> RenderableType:
    """Returns what there is to say of a username or an account's id. Raises LookupError where there
    is no such account."""
    async with database.open_pool(settings, size_max=1) as pool, pool.connection() as connection:
        row = await accounts.find(connection, user)
        changes = await tier_changes.fetch_by_user(connection, row.id, count=HISTORY_SHOWN + 1)
    thresholds = Thresholds(
        settings.influencer_followers, settings.celebrity_followers, settings.tier_hysteresis
    )
    return report(row, changes, thresholds)


def report(
    row: UserRow, changes: Sequence[TierChangeRow], thresholds: Thresholds
) -> RenderableType:
    """Returns the same of an account's row and its latest changes, the newest first."""
    tier = Tier(row.tier)
    title = Text.assemble((row.username, "bold"), f" (id {row.id}): ", (NAMES[tier], "bold"))
    title.append(f", {_followers(row.follower_count)}")
    return Group(
        title,
        "",
        *(Text(f"  {line}") for line in _lines(tier, row.follower_count, thresholds)),
        "",
        Text(f"The next tweet {WAYS[int(fanout.plan(tier))]}."),
        Text("Tweets keep the way that was stamped on them when they were posted."),
        "",
        _history(tier, changes),
    )


def _lines(tier: Tier, follower_count: int, thresholds: Thresholds) -> list[str]:
    reached = next_tier(tier, follower_count, thresholds)
    if reached is not tier:
        # Other thresholds held when it was last counted.
        return [f"by the settings of now it belongs to {NAMES[reached]}: the next change moves it"]
    lines: list[str] = []
    up, down = rises_at(tier, thresholds), falls_below(tier, thresholds)
    if up is not None:
        above = NAMES[next_tier(tier, up, thresholds)]
        lines.append(f"up to {above} at {_followers(up)}: {up - follower_count:,} more")
    if down is not None:
        below = NAMES[next_tier(tier, down - 1, thresholds)]
        lines.append(
            f"down to {below} below {_followers(down)}: {follower_count - down + 1:,} fewer"
        )
    return lines


def _history(tier: Tier, changes: Sequence[TierChangeRow]) -> RenderableType:
    if not changes:
        if tier is Tier.NORMAL:
            return Text("It has never been in another tier.")
        return Text("No change of tier was recorded.")
    table = Table(title="History, newest first (UTC)", title_justify="left")
    table.add_column("when", no_wrap=True)
    table.add_column("from")
    table.add_column("to")
    table.add_column("followers", justify="right")
    for change in changes[:HISTORY_SHOWN]:
        table.add_row(
            change.changed_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S"),
            NAMES[Tier(change.from_tier)],
            NAMES[Tier(change.to_tier)],
            f"{change.follower_count:,}",
        )
    if len(changes) > HISTORY_SHOWN:
        table.caption = f"only the last {HISTORY_SHOWN} are shown"
    return table


def _followers(count: int) -> str:
    return f"{count:,} follower{'' if count == 1 else 's'}"
