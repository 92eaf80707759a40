"""Readers whose lease has ended: they have not read for so long that fan-out pushes no influencer's
tweets to them."""

from domain.ids import UserId
from mesh.settings import Settings
from storage.timelines import LEASE_S, Keys, WindowKind
from storage.valkey import Valkey


async def end_lease(valkey: Valkey, settings: Settings, viewer: UserId) -> None:
    """Ends a reader's lease, where the timeline stands."""
    window = Keys(settings.timeline_shards).window(WindowKind.TIMELINE, viewer)
    await end(valkey, settings, window)


async def end(valkey: Valkey, settings: Settings, window: str | bytes) -> None:
    """The same of a timeline by its key. The mark of a rebuild lives no longer for it."""
    left_s = settings.timeline_keep_days * 86_400 - LEASE_S - 1
    await valkey.expire(window, left_s, lt=True)
