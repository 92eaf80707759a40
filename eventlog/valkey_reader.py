"""Reads the Valkey engine's log without a group."""

from collections.abc import Sequence
from typing import Any, cast

from eventlog import client, positions, scripts
from eventlog.client import Valkey
from eventlog.contract import Record, RecordsMissed
from eventlog.positions import START, StreamId

Entries = list[tuple[bytes, dict[bytes, bytes]]]


class ValkeyReader:
    """The Valkey engine of `contract.Reader`; made by `ValkeyStreams.reader`."""

    def __init__(self, valkey: Valkey, partitions: int) -> None:
        self._valkey = valkey
        self._names = {scripts.stream_key(partition): partition for partition in range(partitions)}

    async def newest(self, count: int) -> list[str]:
        """See Reader."""
        pipeline = cast(Any, self._valkey.pipeline(transaction=False))
        for name, partition in self._names.items():
            pipeline.hmget(scripts.head_key(partition), "epoch", "n")
            pipeline.xrange(name, count=1)
        replies = await pipeline.execute()
        found: list[str] = []
        for (epoch, last), oldest in zip(replies[::2], replies[1::2], strict=True):
            at = int(epoch or 0), max(0, int(last or 0) - count)
            if oldest:
                kept = positions.parse(oldest[0][0].decode())
                at = max(at, (kept[0], kept[1] - 1))
            found.append(positions.render(at))
        return found

    async def read(self, after: Sequence[str], max_records: int, wait_ms: int) -> list[Record]:
        """See Reader."""
        begin = dict(zip(self._names, after, strict=True))
        # Valkey counts by stream. An equal part for each keeps a busy one from crowding out others.
        count = max(1, -(-max_records // len(begin)))
        block_ms = min(wait_ms, client.POLL_WAIT_MS_MAX)
        reply = cast(
            "list[tuple[bytes, Entries]]",
            await cast(Any, self._valkey).xread(
                begin, count=count, block=block_ms if block_ms > 0 else None
            ),
        )
        records: list[Record] = []
        for name, entries in reply:
            partition = self._names[name.decode()]
            at = positions.parse(after[partition])
            for stream_id, fields in entries:
                position = stream_id.decode()
                found = positions.parse(position)
                if not _follows(at, found):
                    raise RecordsMissed(
                        f"partition {partition} keeps nothing between {positions.render(at)}"
                        f" and {position}"
                    )
                at = found
                key = int(fields[scripts.FIELD_KEY])
                records.append(Record(partition, position, key, fields[scripts.FIELD_PAYLOAD], 0))
        return records


def _follows(earlier: StreamId, later: StreamId) -> bool:
    # Whoever stands at the beginning has seen an empty partition: its first record comes next.
    if earlier == START:
        return later[1] == 1
    return positions.follows_without_hole(earlier, later)
