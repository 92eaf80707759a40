"""What `chirp tier` shows."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from domain.ids import UserId
from domain.tier import Thresholds, Tier
from mesh.settings import Settings
from ops import cli
from ops import tier as command
from storage import database, tier_changes
from storage.tier_changes import TierChangeRow
from storage.users import UserRow

LINES = Thresholds(influencer=10_000, celebrity=1_000_000, hysteresis=0.9)
THEN = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def account(tier: Tier, followers: int) -> UserRow:
    return UserRow(
        id=UserId(17),
        username="ada",
        display_name="Ada",
        bio="",
        location="",
        avatar_url="",
        follower_count=followers,
        following_count=0,
        tweet_count=0,
        tier=int(tier),
        created_at=THEN,
    )


def shown(
    row: UserRow, changes: list[TierChangeRow] | None = None, thresholds: Thresholds = LINES
) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(command.report(row, changes or [], thresholds))
    return capture.get()


def test_normal_account_is_told_how_far_the_line_above_is() -> None:
    text = shown(account(Tier.NORMAL, 1))

    assert "ada (id 17): normal, 1 follower\n" in text
    assert "up to influencer at 10,000 followers: 9,999 more" in text
    assert "down to" not in text
    assert "The next tweet is pushed to all followers" in text
    assert "never been in another tier" in text


def test_influencer_is_told_both_lines_and_the_history() -> None:
    changes = [
        TierChangeRow(2, 3, 1_000_000, THEN + timedelta(days=1)),
        TierChangeRow(1, 2, 10_000, THEN),
    ]

    text = shown(account(Tier.INFLUENCER, 12_345), changes)

    assert "up to celebrity at 1,000,000 followers: 987,655 more" in text
    assert "down to normal below 9,000 followers: 3,346 fewer" in text
    assert "The next tweet is pushed to the active followers" in text
    assert text.index("2026-03-05 05:06:07") < text.index("2026-03-04 05:06:07")
    assert "1,000,000" in text


def test_celebrity_is_told_that_its_tweets_are_pulled() -> None:
    text = shown(account(Tier.CELEBRITY, 2_000_000))

    assert "up to" not in text
    assert "down to influencer below 900,000 followers: 1,100,001 fewer" in text
    assert "The next tweet is pulled" in text
    assert "No change of tier was recorded" in text


def test_lines_that_are_equal_are_crossed_at_once() -> None:
    equal = Thresholds(influencer=100, celebrity=100, hysteresis=0.9)

    assert "up to celebrity at 100 followers: 60 more" in shown(
        account(Tier.NORMAL, 40), None, equal
    )
    assert "down to normal below 90 followers: 11 fewer" in shown(
        account(Tier.CELEBRITY, 100), None, equal
    )


def test_account_whose_tier_other_settings_gave_is_told_so() -> None:
    assert "it belongs to influencer" in shown(account(Tier.NORMAL, 10_000))
    assert "it belongs to normal" in shown(account(Tier.CELEBRITY, 8_999))


def test_long_history_is_cut_and_says_so() -> None:
    changes = [TierChangeRow(1, 2, 10_000 + n, THEN) for n in range(command.HISTORY_SHOWN + 1)]

    text = shown(account(Tier.INFLUENCER, 10_000), changes)

    assert text.count("2026-03-04") == command.HISTORY_SHOWN
    assert f"only the last {command.HISTORY_SHOWN} are shown" in text


async def insert(settings: Settings) -> None:
    async with (
        database.open_pool(settings, size_max=1) as pool,
        pool.connection() as connection,
    ):
        await connection.execute(
            "INSERT INTO users (id, username, display_name, follower_count, tier)"
            " VALUES (17, 'ada', 'Ada', 10, 2)"
        )
        await tier_changes.insert(
            connection,
            UserId(17),
            from_tier=Tier.NORMAL,
            to_tier=Tier.INFLUENCER,
            follower_count=10,
        )


def test_command_finds_an_account_by_name_and_by_id(
    settings_sync: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asyncio.run(insert(settings_sync))
    monkeypatch.setenv("CHIRP_DATA", str(tmp_path))
    monkeypatch.setenv("CHIRP_DATABASE_URL", settings_sync.database_url)
    monkeypatch.setenv("CHIRP_INFLUENCER_FOLLOWERS", "10")

    answers = [CliRunner().invoke(cli.app, ["tier", user]) for user in ("ADA", "17")]
    unknown = CliRunner().invoke(cli.app, ["tier", "nobody"])

    for answer in answers:
        assert answer.exit_code == 0, answer.exception
        assert "ada (id 17): influencer, 10 followers" in answer.output
        assert "down to normal below 9 followers: 2 fewer" in answer.output
        assert "History" in answer.output
    assert isinstance(unknown.exception, LookupError)
