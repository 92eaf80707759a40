"""How often somebody may do something: quotas that refill evenly, and what a refusal says.

The generic cell rate algorithm (GCRA) in its virtual scheduling form, of ITU-T Recommendation
I.371 (Annex A) and the ATM Forum's Traffic Management Specification 4.0. With a quota of q in w
seconds, T = w / q (the increment), and the limit L = (q - 1) * T, a thing that comes at t conforms
where TAT - t <= L, and then TAT becomes max(TAT, t) + T. TAT, the theoretical arrival time, is all
that is kept of somebody, so a check reads and writes one number.

So q things may come at once, and one more with each T that passes: in any stretch of s seconds at
most q + s / T. A sliding window would hold q times as sharply, and costs a number for each thing.
"""

import math
import re
from dataclasses import dataclass
from enum import Enum

_WRITTEN = re.compile(r"([1-9]\d{0,8})/([1-9]\d{0,6})")
MICROSECONDS = 1_000_000


class Kind(Enum):
    """The kinds of actions that are limited; the value is the name of the policy, in keys of
    Valkey, metrics and the `RateLimit` header."""

    POST = "post"
    """Tweets and retweets, and taking them back."""
    FOLLOW = "follow"
    """Follows, blocks and mutes, and taking them back."""
    LIKE = "like"
    """Likes, and taking them back."""
    READ = "read"
    """Whatever changes nothing for others, and opening a stream."""
    ACCOUNT = "account"
    """Changes of one's own account, and ending sessions."""
    SIGN_IN = "sign_in"
    """Signing up and in: nobody's yet, so by address, at the gateway."""


@dataclass(frozen=True, slots=True)
class Limit:
    """So many things at once, refilled evenly within the window."""

    quota: int
    window_s: int

    @classmethod
    def parse(cls, text: str) -> "Limit":
        """Reads `quota/seconds`; raises ValueError for anything else."""
        found = _WRITTEN.fullmatch(text)
        if found is None:
            raise ValueError("must be quota/seconds, such as 300/10800")
        return cls(int(found[1]), int(found[2]))

    @property
    def interval_us(self) -> int:
        """T in microseconds, the time that gives back one thing; at least 1."""
        return max(1, self.window_s * MICROSECONDS // self.quota)

    @property
    def capacity_us(self) -> int:
        """L + T: how far TAT may lie ahead, the thing at hand included."""
        return self.quota * self.interval_us

    def wait_us(self, ahead_us: int) -> int:
        """Returns how long until one more conforms, where TAT lies so far ahead; 0 for now."""
        return max(0, ahead_us + self.interval_us - self.capacity_us)


def whole_seconds(microseconds: int) -> int:
    """Returns a wait as `Retry-After` says it: rounded up, since too early is refused again."""
    return max(1, math.ceil(microseconds / MICROSECONDS))
