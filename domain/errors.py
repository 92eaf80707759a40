"""The closed set of errors that Chirp answers. `mesh/errors.py` maps each to a gRPC status.

A message is for people outside: it names the field and the reason, never SQL, a host or a path.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """What is wrong with one field: `field` as in the JSON contract, `description` a sentence."""

    field: str
    description: str


class ChirpError(Exception):
    """The base of all errors below. `reason` stands in google.rpc.ErrorInfo."""

    reason = "INTERNAL"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidArgument(ChirpError):
    """One or more fields are wrong."""

    reason = "INVALID_ARGUMENT"

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = tuple(violations)

    @classmethod
    def of(cls, field: str, description: str) -> "InvalidArgument":
        """One wrong field."""
        return cls([FieldViolation(field, description)])


class SelfFollow(InvalidArgument):
    """An account cannot follow or unfollow itself."""

    reason = "SELF_FOLLOW"


class SelfBlock(InvalidArgument):
    """An account cannot block or unblock itself."""

    reason = "SELF_BLOCK"


class SelfMute(InvalidArgument):
    """An account cannot mute or unmute itself."""

    reason = "SELF_MUTE"


class Blocked(ChirpError):
    """One of the two accounts blocks the other."""

    reason = "BLOCKED"


class Unauthenticated(ChirpError):
    """No token, or one that is not valid."""

    reason = "UNAUTHENTICATED"


class BadCredentials(ChirpError):
    """Username or password is wrong; it does not say which."""

    reason = "BAD_CREDENTIALS"


class NotYours(ChirpError):
    """The thing belongs to someone else."""

    reason = "NOT_YOURS"


class ServicesOnly(ChirpError):
    """The method is for Chirp's own services."""

    reason = "SERVICES_ONLY"


class UserNotFound(ChirpError):
    """No such account."""

    reason = "USER_NOT_FOUND"


class TweetNotFound(ChirpError):
    """No such tweet, or it was deleted."""

    reason = "TWEET_NOT_FOUND"


class UsernameTaken(ChirpError):
    """The username is in use."""

    reason = "USERNAME_TAKEN"


class Overloaded(ChirpError):
    """The server is at its limit; worth a retry."""

    reason = "OVERLOADED"


class RateLimited(ChirpError):
    """The caller did too much of one kind; worth a retry when `retry_after_s` have passed.

    `policy` names the kind, `quota` how often it may be done within `window_s`."""

    reason = "RATE_LIMITED"

    def __init__(self, policy: str, *, quota: int, window_s: int, retry_after_s: int) -> None:
        super().__init__(f"too many calls of the kind `{policy}`; try again in {retry_after_s} s")
        self.policy = policy
        self.quota = quota
        self.window_s = window_s
        self.retry_after_s = retry_after_s


class Unavailable(ChirpError):
    """A part that the call needs is down; worth a retry."""

    reason = "UNAVAILABLE"


class DeadlineExceeded(ChirpError):
    """The call took longer than its deadline."""

    reason = "DEADLINE_EXCEEDED"
