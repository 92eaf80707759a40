"""Mints an access token for any account, as signing in would: what `chirp token USER` prints. An
account of a loaded graph has no password, so this is its only way in. And for a service, as it
signs its own: `chirp token --service NAME`. Needs the private keys."""

import time

from mesh.access import SERVICES
from mesh.keys import SERVICE_TOKEN_LIFETIME_MAX_S
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


def service_token(settings: Settings, name: str) -> str:
    """Returns a token for one of Chirp's services, good for an hour. Raises LookupError where there
    is no such service, and OSError where its key is not there."""
    if name not in SERVICES:
        raise LookupError(f"no service {name}; there are {', '.join(SERVICES)}")
    signer = TokenSigner(settings, name)
    return signer.sign_service(lifetime_s=SERVICE_TOKEN_LIFETIME_MAX_S, now=time.time())
