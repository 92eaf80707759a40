"""Mints an access token for any account, as signing in would: what `chirp token USER` prints. An
account of a loaded graph has no password, so this is its only way in. Needs the private key."""

import time

from mesh.settings import Settings
from mesh.tokens import TokenSigner
from ops import accounts
from storage import database, sessions, snowflakes


async def token(settings: Settings, user: str) -> str:
    """Returns a token for a username or an account's id, with a session of its own, which the
    account's owner can end. Raises LookupError where there is no such account."""
    signer = TokenSigner(settings)
    async with database.open_pool(settings, size_max=2) as pool:
        async with pool.connection() as connection:
            row = await accounts.find(connection, user)
        async with snowflakes.lease(pool) as ids, pool.connection() as connection:
            session_id = ids.mint()
            lifetime_s = settings.token_lifetime_s
            await sessions.insert(connection, session_id, row.id, lifetime_s=lifetime_s)
        return signer.sign_user(row.id, session_id, lifetime_s=lifetime_s, now=time.time())
