"""Whether a token's session still stands, in every server, within two seconds of its end.

 1. The first call with a token asks PostgreSQL for the session's row, once in each process.
 2. From then on the purge feed tells when it ends: its streams end with SESSION_ENDED, and the next
    call asks again, and is refused.
 3. While the feed is stale nothing is taken for granted: each call asks PostgreSQL, and fails with
    it. So a server that is cut off from the database lets no ended session in.

A session without a row has ended: rows go when tokens have expired, or with their account. The
session 0 is the command line's, which nobody ends; its tokens live for minutes.
"""

import asyncio
from collections import OrderedDict

from domain.errors import Unauthenticated, Unavailable
from mesh.settings import Settings
from mesh.streams import SESSION_ENDED, Streams
from mesh.tokens import Claims, TokenVerifier
from servers.purge_feed import PurgeFeed
from storage import purges, sessions
from storage.database import Pool

ENDED_MAX = 100_000  # ended sessions remembered, for those that are asked about just then
NO_SESSION = 0
TRIES = 3  # each is a poll of the feed that fell behind, just then


class SessionVerifier:
    """Says who calls. `feed.run` must run beside it."""

    def __init__(
        self,
        pool: Pool,
        feed: PurgeFeed,
        settings: Settings,
        streams: Streams | None = None,
        tokens: TokenVerifier | None = None,
    ) -> None:
        self._pool = pool
        self._feed = feed
        self._streams = streams
        self._tokens = tokens or TokenVerifier(settings)
        self._standing_max = settings.token_cache_max
        self._standing: OrderedDict[int, None] = OrderedDict()
        self._ended: OrderedDict[int, None] = OrderedDict()
        self._forgets = 0
        """How often something may have ended that `_ended` does not name."""
        self._to_end: set[int] = set()
        self._checking: asyncio.Task[None] | None = None
        feed.listen(self.on_purge, self.forget_all)

    def known(self, token: str) -> Claims | None:
        """Returns who calls, where the session stood less than two seconds ago."""
        claims = self._tokens.known(token)
        if claims is None or (claims.session_id not in self._standing and claims.session_id):
            return None
        return claims if self._feed.fresh or not claims.session_id else None

    async def admit(self, token: str) -> Claims:
        """Verifies a token, and asks whether its session stands. Raises Unauthenticated, and what
        the database raises."""
        claims = self._tokens.verify(token)
        session_id = claims.session_id
        if session_id == NO_SESSION:
            return claims
        for _ in range(TRIES):
            forgets = self._forgets
            async with self._pool.connection() as connection:
                stands = await sessions.stands(connection, session_id)
            if not stands or session_id in self._ended:
                raise Unauthenticated("the session has ended; sign in again")
            # What was forgotten meanwhile may be the end of this session.
            if forgets == self._forgets:
                self._keep(session_id)
                return claims
        raise Unavailable("too many sessions end at the moment; try again")

    def look(self) -> None:
        """Follows the keys."""
        self._tokens.look()

    def on_purge(self, purge: purges.Purge) -> None:
        """Forgets a session that ended, and ends its streams."""
        if purge.kind is not purges.Kind.SESSION:
            return
        self._standing.pop(purge.subject_id, None)
        self._ended[purge.subject_id] = None
        while len(self._ended) > ENDED_MAX:
            self._ended.popitem(last=False)
            self._forgets += 1
        if not self._to_end:
            # All of one poll at once: each look goes through all open streams.
            asyncio.get_running_loop().call_soon(self._end_streams)
        self._to_end.add(purge.subject_id)

    def forget_all(self) -> None:
        """Asks for every session anew, those of the open streams at once."""
        self._forgets += 1
        self._standing.clear()
        if self._streams is not None and self._checking is None:
            self._checking = asyncio.create_task(self._check_streams(self._streams))
            self._checking.add_done_callback(self._checked)

    def _keep(self, session_id: int) -> None:
        self._standing[session_id] = None
        while len(self._standing) > self._standing_max:
            self._standing.popitem(last=False)

    def _end_streams(self) -> None:
        ended, self._to_end = self._to_end, set[int]()
        if self._streams is not None:
            self._streams.end_where(lambda claims: claims.session_id in ended, SESSION_ENDED)

    async def _check_streams(self, streams: Streams) -> None:
        asked = [id_ for id_ in streams.session_ids() if id_ != NO_SESSION]
        if asked:
            standing = await sessions.fetch_standing(self._pool, asked)
            ended = set(asked) - standing
            streams.end_where(lambda claims: claims.session_id in ended, SESSION_ENDED)

    def _checked(self, task: asyncio.Task[None]) -> None:
        self._checking = None
        if not task.cancelled() and task.exception() is not None:
            # The database is away again: the next poll that gets through begins anew.
            self._feed.begin_anew()
