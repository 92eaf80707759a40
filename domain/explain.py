"""Why a tweet is, or is not, in a home timeline: the rules of `timeline.py` asked of one tweet, and
the first of them that leaves it out."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from enum import IntEnum

from domain.ids import TweetId, UserId
from domain.timeline import NO_TWEET, NOBODY, Entry, Viewer, is_visible


class Reason(IntEnum):
    """The numbers are the contract's (ExplainReason)."""

    SHOWN = 1
    NO_SUCH_TWEET = 2
    DELETED = 3
    ORIGINAL_DELETED = 4
    NOT_FOLLOWED = 5
    BLOCKED = 6
    MUTED = 7
    REPLY_TO_NOT_FOLLOWED = 8
    REPEATED = 9
    ON_THE_WAY = 10


class Way(IntEnum):
    """The numbers are the contract's (ExplainWay)."""

    NONE = 0
    OWN = 1
    PUSHED = 2
    PULLED = 3
    REBUILT = 4
    PAST_THE_WINDOW = 5


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the tweet. Existence and deletion come first, the entry says the rest."""

    entry: Entry
    deleted: bool
    original_deleted: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """The first rule that leaves the tweet out, or SHOWN."""

    reason: Reason
    account: UserId = NOBODY
    older_entry: TweetId = NO_TWEET


def judge(
    facts: Facts | None, viewer: Viewer, muted: Set[UserId], older: Sequence[Entry]
) -> Verdict:
    """Returns why. `muted` is the part of `viewer.hidden` that is only muted; `older` are the
    visible entries next below the tweet, as many as a repeat may be away."""
    if facts is None:
        return Verdict(Reason.NO_SUCH_TWEET)
    if facts.deleted:
        return Verdict(Reason.DELETED)
    if facts.original_deleted:
        return Verdict(Reason.ORIGINAL_DELETED)
    tweet, author, original, other = facts.entry
    if not is_visible(facts.entry, viewer):
        for account in (author, other):
            if account in viewer.hidden:
                return Verdict(Reason.MUTED if account in muted else Reason.BLOCKED, account)
        if author not in viewer.followees:
            return Verdict(Reason.NOT_FOLLOWED, author)
        return Verdict(Reason.REPLY_TO_NOT_FOLLOWED, other)
    key = original or tweet
    for older_tweet, _, older_original, _ in older:
        if (older_original or older_tweet) == key:
            return Verdict(Reason.REPEATED, older_entry=older_tweet)
    return Verdict(Reason.SHOWN)


def sentence(verdict: Verdict, way: Way, lag_ms: int) -> str:
    """Returns the verdict in a sentence."""
    account = f"account {verdict.account}"
    match verdict.reason:
        case Reason.SHOWN:
            return f"It is in the timeline: {_WAYS[way]}."
        case Reason.NO_SUCH_TWEET:
            return "There is no such tweet."
        case Reason.DELETED:
            return "It was deleted, or its retweet was undone."
        case Reason.ORIGINAL_DELETED:
            return "The tweet that it repeats was deleted."
        case Reason.NOT_FOLLOWED:
            return f"Its author, {account}, is not followed."
        case Reason.BLOCKED:
            return f"The viewer blocks {account}, or is blocked by it."
        case Reason.MUTED:
            return f"The viewer mutes {account}."
        case Reason.REPLY_TO_NOT_FOLLOWED:
            return f"It answers {account}, which the viewer does not follow."
        case Reason.REPEATED:
            return f"The older entry {verdict.older_entry} shows the same tweet close below."
        case Reason.ON_THE_WAY:
            return f"It belongs there; its event is still in the log, for {lag_ms} ms now."


_WAYS = {
    Way.NONE: "by no way that is known",
    Way.OWN: "the viewer posted it",
    Way.PUSHED: "fan-out pushed it",
    Way.PULLED: "it is pulled from its author's recent tweets",
    Way.REBUILT: "the last rebuild put it there",
    Way.PAST_THE_WINDOW: "it is older than the windows reach, and comes from the database",
}
