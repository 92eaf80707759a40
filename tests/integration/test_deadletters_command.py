"""What `chirp deadletters` shows and does."""

from chirp.v1 import events_pb2
from rich.console import Console

from eventlog import deadletters
from eventlog.contract import Record
from mesh.settings import Settings
from ops import deadletters as command


def created(tweet_id: int, author_id: int) -> bytes:
    event = events_pb2.Event(
        tweet_created=events_pb2.TweetCreated(
            entry=events_pb2.TimelineEntry(tweet_id=tweet_id, author_id=author_id)
        )
    )
    return event.SerializeToString()


def shown(table: object) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_an_event_is_told_by_kind_and_ids() -> None:
    assert command.describe_event(created(7, 3)) == "tweet_created tweet_id=7 author_id=3"
    followed = events_pb2.Event(user_followed=events_pb2.UserFollowed(follower_id=1, followee_id=2))
    assert (
        command.describe_event(followed.SerializeToString())
        == "user_followed follower_id=1 followee_id=2"
    )


def test_a_payload_that_is_no_event_is_told_as_such() -> None:
    assert command.describe_event(b"\xff") == "unreadable, 1 bytes"
    assert command.describe_event(b"") == "of no known kind, 0 bytes"


async def test_letters_of_all_groups_are_listed_and_discarded(settings: Settings) -> None:
    for group in ("fanout", "trend"):
        async with deadletters.open_letters(settings, group) as letters:
            await letters.bury(Record(3, "5-9", 3, created(7, 3), 1), ValueError("no such key"), 3)

    listed = shown(await command.list_letters(settings))
    assert "fanout" in listed
    assert "trend" in listed
    assert "tweet_created tweet_id=7" in listed
    assert "ValueError: no such key" in listed

    assert await command.redrive(settings, "trend", ["3:5-9", "3:5-10"]) == 1
    assert await command.discard(settings, "fanout", ["3:5-9", "3:5-10"]) == 1
    assert "fanout" not in shown(await command.list_letters(settings))


async def test_an_error_is_kept_in_bounded_length(settings: Settings) -> None:
    async with deadletters.open_letters(settings, "fanout") as letters:
        await letters.bury(Record(3, "5-9", 3, b"", 1), ValueError("x" * 100_000), 3)
        (letter,) = await letters.fetch_all()

    assert len(letter.error) == deadletters.ERROR_CHARACTERS_MAX
