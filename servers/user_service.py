"""UserService: accounts, sign-up, sign-in, profiles."""

from collections.abc import Callable

from chirp.v1 import events_pb2, user_pb2
from google.api import httpbody_pb2

from domain import user
from domain.errors import BadCredentials, Unauthenticated, UsernameTaken, UserNotFound
from domain.ids import UserId
from mesh.keys import PublishedKeys
from mesh.rpc import Call
from mesh.settings import Settings
from mesh.tokens import TokenSigner
from servers.passwords import Passwords
from servers.sign_in_throttle import SignInThrottle
from servers.user_message import present
from storage import erasures, follows, outbox, purges, sessions, users
from storage.database import Connection, Pool
from storage.snowflakes import IdMinter
from storage.users import UserRow


class UserService:
    """Answers chirp.v1.UserService."""

    def __init__(
        self,
        settings: Settings,
        pool: Pool,
        ids: IdMinter,
        passwords: Passwords,
        signer: TokenSigner,
        throttle: SignInThrottle,
        clock: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._ids = ids
        self._passwords = passwords
        self._signer = signer
        self._throttle = throttle
        self._clock = clock
        self._lifetime_s = settings.token_lifetime_s
        self._keys = PublishedKeys(settings)

    async def CreateUser(
        self, request: user_pb2.CreateUserRequest, call: Call
    ) -> user_pb2.CreateUserResponse:
        """Validates, hashes, then writes account, first session and event together."""
        profile = user.draft(request.username, request.display_name, request.bio, request.location)
        password = user.check_password(request.password)
        await self._throttle.sign_up(profile.username, call.metadata)
        async with self._pool.connection() as connection:
            # Spares a hash; what decides is the unique index.
            known = await users.fetch_by_username(connection, profile.username)
            if known is not None or await erasures.is_reserved(connection, profile.username):
                raise _taken()
        password_hash = await self._passwords.hash(password)
        user_id, session_id = UserId(self._ids.mint()), self._ids.mint()
        event = self._event()
        event.user_created.user_id = user_id
        async with self._pool.connection() as connection, connection.transaction():
            row = await users.insert(connection, user_id, profile, password_hash)
            # Looked at behind the insert: a name becomes free and is reserved in one commit.
            if row is None or await erasures.is_reserved(connection, profile.username):
                raise _taken()
            await sessions.insert(connection, session_id, user_id, lifetime_s=self._lifetime_s)
            await outbox.insert(
                connection, partition_key=user_id, payload=event.SerializeToString()
            )
        return user_pb2.CreateUserResponse(
            user=present(row, None),
            access_token=self._sign(user_id, session_id),
            expires_in=self._lifetime_s,
        )

    async def CreateSession(
        self, request: user_pb2.CreateSessionRequest, call: Call
    ) -> user_pb2.CreateSessionResponse:
        """Answers an unknown name and a wrong password alike, after the same work."""
        username = user.check_username(request.username)
        password = user.check_password(request.password)
        await self._throttle.sign_in(username, call.metadata)
        async with self._pool.connection() as connection:
            known = await users.fetch_credentials(connection, username)
        right = await self._passwords.verify(known.password_hash if known else None, password)
        if known is None or not right:
            raise _bad_credentials()
        await self._throttle.signed_in(username)
        session_id = self._ids.mint()
        async with self._pool.connection() as connection, connection.transaction():
            # Held, so that no session begins behind those that an erasure ends.
            await users.lock(connection, [known.user_id])
            row = await users.fetch_by_id(connection, known.user_id)
            if row is None:
                raise _bad_credentials()
            await sessions.insert(
                connection, session_id, known.user_id, lifetime_s=self._lifetime_s
            )
        return user_pb2.CreateSessionResponse(
            user=present(row, None),
            access_token=self._sign(known.user_id, session_id),
            expires_in=self._lifetime_s,
        )

    async def GetMe(self, request: user_pb2.GetMeRequest, call: Call) -> user_pb2.User:
        """Gets the caller's account."""
        async with self._pool.connection() as connection:
            await require_session(connection, call)
            row = await users.fetch_by_id(connection, call.caller)
            return await _answer(connection, row, call)

    async def UpdateMe(self, request: user_pb2.UpdateMeRequest, call: Call) -> user_pb2.User:
        """Changes the profile, tells the caches and the log, in one transaction."""
        change = user.change(
            request.display_name if request.HasField("display_name") else None,
            request.bio if request.HasField("bio") else None,
            request.location if request.HasField("location") else None,
            request.avatar_url if request.HasField("avatar_url") else None,
        )
        if change.is_empty:
            return await self.GetMe(user_pb2.GetMeRequest(), call)
        event = self._event()
        event.user_updated.user_id = call.caller
        async with self._pool.connection() as connection, connection.transaction():
            await require_session(connection, call)
            row = await users.update_profile(connection, call.caller, change)
            if row is not None:
                await purges.insert(connection, purges.Kind.USER, call.caller)
                await outbox.insert(
                    connection, partition_key=call.caller, payload=event.SerializeToString()
                )
            return await _answer(connection, row, call)

    async def DeleteMe(
        self, request: user_pb2.DeleteMeRequest, call: Call
    ) -> user_pb2.DeleteMeResponse:
        """Deletes the caller's account: hides it in one transaction, and leaves the rest to the
        steps of relation_eraser.py, tweet_eraser.py and the workers."""
        password = user.check_password(request.password)
        # By the id: whoever has a stolen token cannot keep the owner from signing in.
        guesses_of = f"#{call.caller}"
        await self._throttle.sign_in(guesses_of, call.metadata)
        async with self._pool.connection() as connection:
            await require_session(connection, call)
            known = await users.fetch_password_hash(connection, call.caller)
        if not await self._passwords.verify(known, password):
            raise BadCredentials("the password is wrong")
        await self._throttle.signed_in(guesses_of)
        event = self._event()
        event.user_erased.user_id = call.caller
        async with self._pool.connection() as connection, connection.transaction():
            held = await users.lock(connection, [call.caller])
            await require_session(connection, call)
            if call.caller not in held:
                raise Unauthenticated("the account of this token is gone")
            if await users.fetch_password_hash(connection, call.caller) != known:
                raise BadCredentials("the password was changed")
            await erasures.begin(connection, call.caller)
            await sessions.end_all(connection, call.caller)
            await purges.insert(connection, purges.Kind.USER, call.caller)
            await purges.insert(connection, purges.Kind.ERASED, call.caller)
            await outbox.insert(
                connection, partition_key=call.caller, payload=event.SerializeToString()
            )
        return user_pb2.DeleteMeResponse()

    async def DeleteCurrentSession(
        self, request: user_pb2.DeleteCurrentSessionRequest, call: Call
    ) -> user_pb2.DeleteCurrentSessionResponse:
        """Ends the session of the call's token."""
        async with self._pool.connection() as connection:
            await require_session(connection, call)
            await sessions.end(connection, call.claims.session_id, call.caller)
        return user_pb2.DeleteCurrentSessionResponse()

    async def DeleteSessions(
        self, request: user_pb2.DeleteSessionsRequest, call: Call
    ) -> user_pb2.DeleteSessionsResponse:
        """Ends all of the caller's sessions, the current one too."""
        async with self._pool.connection() as connection:
            await require_session(connection, call)
            await sessions.end_all(connection, call.caller)
        return user_pb2.DeleteSessionsResponse()

    async def GetUser(self, request: user_pb2.GetUserRequest, call: Call) -> user_pb2.User:
        """Gets an account by id."""
        user_id = UserId(user.check_id(request.id))
        async with self._pool.connection() as connection:
            row = await users.fetch_by_id(connection, user_id)
            return await _answer(connection, row, call)

    async def GetUserByUsername(
        self, request: user_pb2.GetUserByUsernameRequest, call: Call
    ) -> user_pb2.User:
        """Gets an account by name."""
        username = user.check_username(request.username)
        async with self._pool.connection() as connection:
            row = await users.fetch_by_username(connection, username)
            return await _answer(connection, row, call)

    async def GetJwks(self, request: user_pb2.GetJwksRequest, call: Call) -> httpbody_pb2.HttpBody:
        """Gets the public keys as they are now; the gateway asks every few seconds."""
        return httpbody_pb2.HttpBody(content_type="application/json", data=self._keys.document())

    def _sign(self, user_id: UserId, session_id: int) -> str:
        return self._signer.sign_user(
            user_id, session_id, lifetime_s=self._lifetime_s, now=self._clock()
        )

    def _event(self) -> events_pb2.Event:
        event = events_pb2.Event()
        event.occurred_at.FromMilliseconds(int(self._clock() * 1000))
        return event


async def require_session(connection: Connection, call: Call) -> None:
    """Raises Unauthenticated where the session of the call's token was ended, just now too."""
    session_id = call.claims.session_id
    if session_id and not await sessions.stands(connection, session_id):
        raise Unauthenticated("the session has ended; sign in again")


async def _answer(connection: Connection, row: UserRow | None, call: Call) -> user_pb2.User:
    if row is None:
        raise UserNotFound("no such account")
    if call.user_id is None:
        return present(row, None)
    relations = await follows.fetch_relations(connection, call.user_id, [row.id])
    return present(row, relations[row.id])


def _taken() -> UsernameTaken:
    return UsernameTaken("the username is taken")


def _bad_credentials() -> BadCredentials:
    return BadCredentials("username or password is wrong")
