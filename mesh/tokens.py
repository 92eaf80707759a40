"""Access tokens: EdDSA JSON Web Tokens. graph_server signs those of users, every process its own;
the gateway verifies users' tokens, and every server verifies again.

A user's token says `sub` (the account's id), `sid` (the session; 0 for one that the command line
made and nobody can end) and `exp`. A service's says `sub: service:<name>`. A key is believed for
its owner only (`keys.py`): a service's key signs no user in, nor the users' key a service.
Verifying costs about 100 us, so verified tokens are kept until they expire.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jwt

from domain.errors import Unauthenticated
from domain.ids import UserId
from mesh import keys
from mesh.files import Watch
from mesh.keys import ALGORITHM, USERS
from mesh.settings import Settings

SERVICE_PREFIX = "service:"
SERVICE_TOKEN_LIFETIME_S = 300
SERVICE_TOKEN_RENEW_S = 60  # so a token is good for four minutes at least when it is sent
TOKEN_LENGTH_MAX = 4_096
CLOCK_SKEW_S = 5  # by so much another machine's clock may be ahead; as at the gateway
UNKNOWN_KEY_LOOK_S = 0.2  # so often an unknown key makes a server look for new ones

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Claims:
    """Who a token speaks for: a user with a session, or one of Chirp's services."""

    user_id: UserId | None
    session_id: int
    service: str
    expires_at: float


class TokenSigner:
    """Signs the tokens of one owner of keys, with the key that signs now. Raises OSError where
    there is none."""

    def __init__(self, settings: Settings, owner: str = USERS) -> None:
        self._settings = settings
        self._owner = owner
        self._watch = Watch(*keys.private_files(settings, owner))
        self._keys: list[keys.Key] = []
        self._key(time.time())

    def sign_user(self, user_id: UserId, session_id: int, *, lifetime_s: int, now: float) -> str:
        """Returns a token for a user."""
        return self._sign({"sub": str(user_id), "sid": str(session_id)}, lifetime_s, now)

    def sign_service(self, *, lifetime_s: int, now: float) -> str:
        """Returns a token for the service whose keys these are."""
        return self._sign({"sub": SERVICE_PREFIX + self._owner}, lifetime_s, now)

    def changed(self) -> bool:
        """Whether the keys changed since the last token."""
        if not self._watch.changed():
            return False
        self._keys = []
        return True

    def _sign(self, claims: dict[str, str], lifetime_s: int, now: float) -> str:
        key = self._key(now)
        times = {"iat": int(now), "nbf": int(now), "exp": int(now) + lifetime_s}
        names = {"iss": self._settings.token_issuer, "aud": self._settings.token_audience}
        assert key.private is not None, "signing_key gives one that can sign"
        return jwt.encode(
            {**claims, **times, **names},
            key.private,
            algorithm=ALGORITHM,
            headers={"kid": key.key_id},
        )

    def _key(self, now: float) -> keys.Key:
        if self._watch.changed() or not self._keys:
            self._keys = keys.read(self._settings, (self._owner,))
        key = keys.signing_key(self._keys, self._settings, now=now)
        if key is None:
            whose = f"of {self._owner}" if self._owner else "that signs users' tokens"
            raise FileNotFoundError(
                f"there is no private key {whose} in {self._settings.keys}: run `chirp migrate`"
            )
        return key


class ServiceIdentity:
    """One service's own token, always a fresh one."""

    def __init__(
        self, settings: Settings, name: str, clock: Callable[[], float] = time.time
    ) -> None:
        self.name = name
        self._signer = TokenSigner(settings, name)
        self._clock = clock
        self._metadata: tuple[tuple[str, str], ...] = ()
        self._signed_at = float("-inf")

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What a call of this service carries. Costs a signature once a minute."""
        now = self._clock()
        if not 0 <= now - self._signed_at < SERVICE_TOKEN_RENEW_S or self._signer.changed():
            token = self._signer.sign_service(lifetime_s=SERVICE_TOKEN_LIFETIME_S, now=now)
            self._metadata = (("authorization", f"Bearer {token}"),)
            self._signed_at = now
        return self._metadata


class TokenVerifier:
    """Verifies tokens against the published keys, which it follows; keeps what it verified,
    bounded."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._watch = Watch(*keys.public_files(settings))
        self._keys: dict[str, tuple[str, jwt.PyJWK]] = {}
        self._verified: dict[str, Claims] = {}
        self._unknown_at = float("-inf")
        self.look(at_once=True)

    def known(self, token: str) -> Claims | None:
        """Returns the claims of a token that was verified before and has not expired."""
        claims = self._verified.get(token)
        if claims is not None and claims.expires_at > self._clock():
            return claims
        return None

    async def admit(self, token: str) -> Claims:
        """As `verify`; what `rpc` asks for a token that is not `known`."""
        return self.verify(token)

    def verify(self, token: str) -> Claims:
        """Returns the claims of a good token; raises Unauthenticated for any other."""
        claims = self.known(token)
        if claims is not None:
            return claims
        self._verified.pop(token, None)
        self.look()
        claims = self._verify_slowly(token)
        while len(self._verified) >= self._settings.token_cache_max:
            del self._verified[next(iter(self._verified))]
        self._verified[token] = claims
        return claims

    def look(self, *, at_once: bool = False) -> None:
        """Reads the published keys where they changed; forgets what was verified by those that are
        gone. `server.serving` calls it again and again, so that it holds without any calls."""
        if not self._watch.changed(at_once=at_once):
            return
        try:
            found = {
                key_id: (owner, jwt.PyJWK.from_dict(member))
                for key_id, (owner, member) in keys.read_public(self._settings).items()
            }
        except (OSError, ValueError, KeyError, jwt.PyJWTError) as error:
            if not self._keys:
                raise
            # Half a file is no reason to refuse everybody.
            log.error("cannot read the published keys: %s", type(error).__name__)
            return
        if self._keys.keys() - found.keys():
            self._verified.clear()
        self._keys = found

    def _verify_slowly(self, token: str) -> Claims:
        if len(token) > TOKEN_LENGTH_MAX:
            raise Unauthenticated("the access token is not valid")
        try:
            owner, key = self._key(str(jwt.get_unverified_header(token).get("kid")))
            decoded = jwt.decode(
                token,
                key,
                # Never by what the token says: neither `none` nor a secret made of a public key.
                algorithms=[ALGORITHM],
                audience=self._settings.token_audience,
                issuer=self._settings.token_issuer,
                # Times are compared below, with our clock.
                options={
                    "require": ["exp", "sub", "iss", "aud"],
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
            return self._claims(owner, decoded)
        except (jwt.InvalidTokenError, KeyError, ValueError, TypeError):
            raise Unauthenticated("the access token is not valid") from None

    def _claims(self, owner: str, decoded: dict[str, Any]) -> Claims:
        now, expires_at = self._clock(), float(decoded["exp"])
        if not expires_at > now:
            raise Unauthenticated("the access token has expired")
        for name in ("nbf", "iat"):
            if not float(decoded.get(name, 0)) <= now + CLOCK_SKEW_S:
                raise Unauthenticated("the access token is not valid yet")
        subject = str(decoded["sub"])
        if owner:
            if subject != SERVICE_PREFIX + owner:
                raise Unauthenticated("the access token is not valid")
            return Claims(None, 0, owner, expires_at)
        return Claims(UserId(int(subject)), int(decoded["sid"]), "", expires_at)

    def _key(self, key_id: str) -> tuple[str, jwt.PyJWK]:
        if key_id not in self._keys:
            # Perhaps it was published a moment ago. Anybody can send such a token: bounded.
            now = time.monotonic()
            if now - self._unknown_at >= UNKNOWN_KEY_LOOK_S:
                self._unknown_at = now
                self.look(at_once=True)
        return self._keys[key_id]
