"""Server streams: heartbeats, a last message with a reason, and limits, for every streaming RPC.

A streaming method is an async generator: `async def StreamX(self, request, call)` yields answers (a
message or its bytes), or HEARTBEAT where it has begun and has nothing to say yet. What it is told
with `call.stream`, and what it may count on:
 1. What it raises before the first answer refuses the call, as in a unary method. Later the stream
    ends with `end`: the error's reason, and the last `stream.resume_token`, which the generator
    sets right before it yields the answer that the token stands behind.
 2. The next answer is asked for when the last one is out, so a slow consumer slows its generator
    down and nobody else. What arrives meanwhile belongs into a `Buffer`, which is bounded.
 3. It is closed (its `finally` runs) when the client goes, the token expires or the server drains,
    and when an answer is not out after `stream_write_s`: a reader that does not read is cut off.

One task beats for all streams of a process: no stream costs a timer or a task of its own.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Final, Generic, TypeVar, cast

import grpc
from chirp.v1 import stream_pb2
from google.protobuf import descriptor, message_factory
from google.protobuf.message import Message

from domain.errors import Overloaded, Unavailable
from domain.ids import UserId
from mesh.settings import Settings
from mesh.tokens import Claims

HEARTBEAT: Final = b""
"""What a generator yields to say that it has begun. No answer is empty, so it stands for itself."""

LOOK_S = 0.5  # how often it is looked which streams need a heartbeat: they may come so much late

DRAINING = "DRAINING"
SLOW_CONSUMER = "SLOW_CONSUMER"
RESYNC_REQUIRED = "RESYNC_REQUIRED"
"""What a resume token stands for is no longer kept: begin anew."""
TOKEN_EXPIRED = "TOKEN_EXPIRED"  # noqa: S105 - a reason, no secret
SESSION_ENDED = "SESSION_ENDED"
ENDED = "ENDED"

Answers = AsyncGenerator[Message | bytes, None]
Item = TypeVar("Item")


class Ended(Exception):
    """A generator raises it to end its stream with a reason of its own."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Gone(Exception):
    """The client hung up: there is nobody to tell."""


class TooSlow(Exception):
    """The reader took nothing of an answer for too long."""


class Buffer(Generic[Item]):
    """What waits for one slow consumer: at most `size` items. One task offers, one takes."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: deque[Item] = deque()
        self._overflowed = False
        self._more = asyncio.Event()

    def offer(self, item: Item) -> bool:
        """Adds an item, without waiting. False where the buffer was ever full: then nothing more
        is taken, what it holds is still delivered, and the stream ends as SLOW_CONSUMER."""
        if not self._overflowed and len(self._items) >= self._size:
            self._overflowed = True
        if not self._overflowed:
            self._items.append(item)
        self._more.set()
        return not self._overflowed

    async def take(self) -> Item:
        """Returns the oldest item, when there is one; raises Ended behind an overflow."""
        while not self._items:
            if self._overflowed:
                raise Ended(SLOW_CONSUMER)
            self._more.clear()
            await self._more.wait()
        return self._items.popleft()


class Frames:
    """The heartbeat and the end in the answer type of one method. Raises TypeError where the type
    is not a stream's: `oneof {item, heartbeat, end}`, and more where a stream says more."""

    def __init__(self, answer: descriptor.Descriptor) -> None:
        oneof = answer.oneofs_by_name.get("message")
        fields = {field.name for field in oneof.fields} if oneof else set[str]()
        if not fields >= {"item", "heartbeat", "end"}:
            raise TypeError(f"{answer.full_name} lacks oneof message {{item, heartbeat, end}}")
        self._class = cast(Any, message_factory.GetMessageClass(answer))
        self._resumes = "resume_token" in answer.fields_by_name

    def heartbeat(self, resume_token: str) -> bytes:
        """Returns a heartbeat; with the resume token where the messages of the stream have one."""
        beat = stream_pb2.Heartbeat()
        if self._resumes:
            return self._class(heartbeat=beat, resume_token=resume_token).SerializeToString()
        return self._class(heartbeat=beat).SerializeToString()

    def end(self, reason: str, resume_token: str) -> bytes:
        """Returns the last message."""
        end = stream_pb2.StreamEnd(reason=reason, resume_token=resume_token)
        return self._class(end=end).SerializeToString()


class OpenStream:
    """One stream as it runs. Generators set `resume_token`, and `newest_token` where a silent
    stream gets ahead of it; the rest is for `Streams`."""

    # Thousands of them at a time: no dictionary for each.
    __slots__ = (
        "_beat", "_context", "_frames", "_is_cut", "_reason", "_task", "_waiting", "_writing",
        "begun", "newest_token", "resume_token", "writing_since", "written_at",
    )  # fmt: skip

    def __init__(self, context: "grpc.aio.ServicerContext[Any, Any]", frames: Frames) -> None:
        self.resume_token = ""
        self.newest_token: Callable[[], str] | None = None
        """Asked for the token of a heartbeat and of the end; None: `resume_token`. Must not give a
        token that stands behind an answer which was not yielded."""
        self.begun = False
        self.written_at = time.monotonic()
        self.writing_since = 0.0
        """When the answer began to go out that is going out now; 0 where none is."""
        self._context = context
        self._frames = frames
        self._task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._writing = asyncio.Lock()  # gRPC takes one write at a time
        self._waiting = False
        self._reason = ""
        self._is_cut = False
        self._beat: asyncio.Task[None] | None = None

    async def run(self, answers: Answers) -> None:
        """Sends what the generator yields, until it ends or `end` was called; then the last
        message. Raises what the generator raises (`finish` ends the stream then), Gone, and TooSlow
        after `cut`."""
        async with aclosing(answers):
            try:
                while not self._reason:
                    answer = await self._next(answers)
                    await self._write(answer if answer != HEARTBEAT else self._heartbeat())
            except (StopAsyncIteration, Ended) as end:
                self._reason = self._reason or getattr(end, "reason", ENDED)
            except asyncio.CancelledError:
                # By `cut`, by `end`, or because the client went?
                if not (self._is_cut or self._reason) or self._task.uncancel():
                    raise
                if self._is_cut:
                    raise TooSlow("the reader took nothing for too long") from None
        await self.finish(self._reason)

    async def finish(self, reason: str) -> None:
        """Sends the last message. Raises Gone."""
        await self._write(self._frames.end(reason, self._token()))

    def end(self, reason: str) -> None:
        """Ends the stream as soon as nothing is half sent."""
        if not self._reason:
            self._reason = reason
            if self._waiting:
                self._task.cancel()

    def cut(self) -> None:
        """Ends the stream of a reader that takes nothing, in the middle of an answer."""
        if not self._is_cut:
            self._is_cut = True
            self._task.cancel()
            if self._beat is not None:
                self._beat.cancel()

    def beat(self) -> None:
        """Sends a heartbeat, in the background; nothing while something is being sent."""
        if not self._writing.locked():
            self._beat = asyncio.create_task(self._send_beat())

    async def _send_beat(self) -> None:
        try:
            await self._write(self._heartbeat())
        except Gone:
            return  # the stream's own task is told, too

    def _heartbeat(self) -> bytes:
        return self._frames.heartbeat(self._token())

    def _token(self) -> str:
        if self.newest_token is not None:
            self.resume_token = self.newest_token()
        return self.resume_token

    async def _next(self, answers: Answers) -> Message | bytes:
        self._waiting = True
        try:
            return await anext(answers)
        finally:
            self._waiting = False

    async def _write(self, frame: Message | bytes) -> None:
        async with self._writing:
            self.begun = True
            self.writing_since = time.monotonic()
            try:
                await self._context.write(frame)
            except grpc.aio.BaseError as error:
                raise Gone from error
            finally:
                self.writing_since = 0.0
            self.written_at = time.monotonic()


class Streams:
    """The open streams of one process. `server.serving` runs `beat` and calls `drain`."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._open: dict[OpenStream, Claims] = {}
        self._of_user: Counter[UserId] = Counter()
        self._draining = False

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._open)

    def admit(self, stream: OpenStream, claims: Claims) -> None:
        """Counts a stream in. Raises Overloaded where the process or the user has too many, and
        Unavailable while the process drains."""
        if self._draining:
            raise Unavailable("this server stops; try again")
        if len(self._open) >= self._settings.streams_max:
            raise Overloaded("too many streams; try again later")
        user = claims.user_id
        if user is not None:
            if self._of_user[user] >= self._settings.user_streams_max:
                raise Overloaded("too many streams of this account; close some")
            self._of_user[user] += 1
        self._open[stream] = claims

    def dismiss(self, stream: OpenStream) -> None:
        """Counts a stream out, if it was in."""
        claims = self._open.pop(stream, None)
        if claims is not None and claims.user_id is not None:
            self._of_user[claims.user_id] -= 1
            if not self._of_user[claims.user_id]:
                del self._of_user[claims.user_id]

    def session_ids(self) -> set[int]:
        """Returns the sessions whose streams are open."""
        return {claims.session_id for claims in self._open.values()}

    def end_where(self, matches: Callable[[Claims], bool], reason: str) -> None:
        """Ends the streams of some callers, for example of a session that was ended."""
        for stream, claims in list(self._open.items()):
            if matches(claims):
                stream.end(reason)

    def drain(self) -> None:
        """Ends all streams, and refuses new ones."""
        self._draining = True
        self.end_where(lambda _: True, DRAINING)

    async def beat(self) -> None:
        """Keeps silent streams alive, ends those whose token expired, and cuts off those whose
        reader does not read, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            now = time.monotonic()
            silent_since = now - self._settings.heartbeat_s + LOOK_S
            stuck_since = now - self._settings.stream_write_s
            for stream in list(self._open):
                if 0 < stream.writing_since <= stuck_since:
                    stream.cut()
                elif stream.begun and stream.written_at <= silent_since:
                    stream.beat()
            self.end_where(self._has_expired, TOKEN_EXPIRED)

    def _has_expired(self, claims: Claims) -> bool:
        return 0 < claims.expires_at <= self._clock()
