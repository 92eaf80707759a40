"""What `chirp keys` shows and does."""

import time

from rich.table import Table

from mesh import keys
from mesh.keys import Key
from mesh.settings import Settings


def table(settings: Settings) -> Table:
    """Returns every key that is believed. Raises OSError where there are none."""
    keys.read_public(settings)  # says what to do where there are none
    now = time.time()
    shown = Table("signs for", "key id", "published", "", box=None, pad_edge=False)
    found = keys.read(settings)
    for key in found:
        of_owner = [each for each in found if each.owner == key.owner]
        signing = keys.signing_key(of_owner, settings, now=now)
        shown.add_row(
            key.owner or "users",
            key.key_id,
            _moment(key.published_at) if key.published_at else "at first",
            _state(key, settings, now, is_signing=key is signing),
        )
    return shown


def rotate(settings: Settings, *, revoke: bool) -> str:
    """Changes the keys; returns what happened, in a sentence. Raises OSError."""
    before = {key.key_id for key in keys.read(settings)}
    now = time.time()
    after = {key.key_id for key in keys.rotate(settings, now=now, revoke=revoke)}
    new, gone = len(after - before), len(before - after)
    if revoke:
        return f"{gone} keys are believed no more; {new} new ones sign from now on"
    if not new:
        return f"the last change is still under way: no new keys; {gone} removed"
    begin = _moment(int(now) + settings.key_lead_s)
    return f"{new} new keys, which sign from {begin} on; {gone} removed"


def _state(key: Key, settings: Settings, now: float, *, is_signing: bool) -> str:
    if is_signing and key.good_until is not None:
        return f"signs; good until {_moment(key.good_until)}"
    if is_signing:
        return "signs"
    if key.good_until is not None:
        expired = key.good_until <= now
        return "not believed" if expired else f"good until {_moment(key.good_until)}"
    if key.signs_from(settings) > now:
        return f"signs from {_moment(key.signs_from(settings))}"
    return "believed"


def _moment(seconds: float) -> str:
    return time.strftime("%m-%d %H:%M:%S", time.localtime(seconds))
