"""Positions of the Valkey engine: stream ids, an epoch and a count that has no holes."""

StreamId = tuple[int, int]
"""Epoch and count; compares like the stream does."""

START: StreamId = (0, 0)


def parse(position: str) -> StreamId:
    """Returns epoch and count of a position; the beginning for an empty one."""
    if not position:
        return START
    epoch, _, count = position.partition("-")
    return int(epoch), int(count)


def order(position: str) -> StreamId:
    """Returns what the positions of one partition are ordered by; the least for an empty one."""
    if not position:
        return START
    # Engines may put more behind the count.
    epoch, count = position.split("-")[:2]
    return int(epoch), int(count)


def render(stream_id: StreamId) -> str:
    """Returns the position of an epoch and a count."""
    return f"{stream_id[0]}-{stream_id[1]}"


def follows_without_hole(earlier: StreamId, later: StreamId) -> bool:
    """Whether nothing was lost between a position and the next record found behind it.

    From the beginning, the first record kept is right. A new epoch begins with a refill of all
    that was sent lately, so its first record follows anything.
    """
    if earlier == START:
        return True
    if earlier[0] == later[0]:
        return later[1] == earlier[1] + 1
    return later[1] == 1
