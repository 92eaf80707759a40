"""Readers whose lease has ended: they have not read for so long that fan-out pushes no influencer's
tweets to them."""

from domain.ids import UserId
from mesh.settings import Settings
from storage.timelines import Keys, WindowKind, leased_s
from storage.valkey import Valkey


async def end_lease(valkey: Valkey, settings: Settings, viewer: UserId) -> None:
    """Ends a reader's lease, where the timeline stands."""
    window = Keys(settings.timeline_shards).window(WindowKind.TIMELINE, viewer)
    # Not the life of a rebuild's mark, which is shorter.
    await valkey.expire(window, leased_s(settings) - 1, lt=True)
