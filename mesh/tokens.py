"""Access tokens: EdDSA JSON Web Tokens, signed by graph_server, verified by the gateway and again
by every server.

A user's token says `sub` (the account's id), `sid` (the session) and `exp`. A service's token says
`sub: service:<name>`. Verifying costs about 100 us, so verified tokens are kept until they expire.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from domain.errors import Unauthenticated
from domain.ids import UserId
from mesh.settings import Settings

ALGORITHM = "EdDSA"
SERVICE_PREFIX = "service:"
SERVICE_TOKEN_LIFETIME_S = 10 * 365 * 86_400  # as long as the keys that sign it
TOKEN_LENGTH_MAX = 4_096

PRIVATE_KEY_FILE = "private.pem"
JWKS_FILE = "jwks.json"
SERVICE_TOKEN_FILE = "service.jwt"  # noqa: S105 - the name of a file


@dataclass(frozen=True, slots=True)
class Claims:
    """Who a token speaks for: a user with a session, or one of Chirp's services."""

    user_id: UserId | None
    session_id: int
    service: str
    expires_at: float


class TokenSigner:
    """Signs tokens with the private key in the key folder."""

    def __init__(self, settings: Settings) -> None:
        pem = (settings.keys / PRIVATE_KEY_FILE).read_bytes()
        key = serialization.load_pem_private_key(pem, password=None)
        assert isinstance(key, Ed25519PrivateKey)
        self._key = key
        self._key_id = _jwk(key)["kid"]
        self._settings = settings

    def sign_user(self, user_id: UserId, session_id: int, *, lifetime_s: int, now: float) -> str:
        """Returns a token for a user."""
        return self._sign({"sub": str(user_id), "sid": str(session_id)}, lifetime_s, now)

    def sign_service(self, name: str, *, now: float) -> str:
        """Returns a token for one of Chirp's services."""
        return self._sign({"sub": SERVICE_PREFIX + name}, SERVICE_TOKEN_LIFETIME_S, now)

    def _sign(self, claims: dict[str, str], lifetime_s: int, now: float) -> str:
        times = {"iat": int(now), "exp": int(now) + lifetime_s}
        names = {"iss": self._settings.token_issuer, "aud": self._settings.token_audience}
        return jwt.encode(
            {**claims, **times, **names},
            self._key,
            algorithm=ALGORITHM,
            headers={"kid": self._key_id},
        )


class TokenVerifier:
    """Verifies tokens against the published keys; keeps what it verified, bounded."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        document = json.loads((settings.keys / JWKS_FILE).read_text())
        self._keys = {key.key_id: key for key in jwt.PyJWKSet.from_dict(document).keys}
        self._settings = settings
        self._clock = clock
        self._verified: dict[str, Claims] = {}

    def verify(self, token: str) -> Claims:
        """Returns the claims of a good token; raises Unauthenticated for any other."""
        claims = self._verified.get(token)
        if claims is not None:
            if claims.expires_at > self._clock():
                return claims
            del self._verified[token]
        claims = self._verify_slowly(token)
        while len(self._verified) >= self._settings.token_cache_max:
            del self._verified[next(iter(self._verified))]
        self._verified[token] = claims
        return claims

    def _verify_slowly(self, token: str) -> Claims:
        if len(token) > TOKEN_LENGTH_MAX:
            raise Unauthenticated("the access token is not valid")
        try:
            key = self._keys[str(jwt.get_unverified_header(token).get("kid"))]
            decoded = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=self._settings.token_audience,
                issuer=self._settings.token_issuer,
                options={"require": ["exp", "sub", "iss", "aud"]},
            )
            subject = str(decoded["sub"])
            expires_at = float(decoded["exp"])
            if subject.startswith(SERVICE_PREFIX):
                return Claims(None, 0, subject.removeprefix(SERVICE_PREFIX), expires_at)
            return Claims(UserId(int(subject)), int(decoded["sid"]), "", expires_at)
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("the access token has expired") from None
        except (jwt.InvalidTokenError, KeyError, ValueError):
            raise Unauthenticated("the access token is not valid") from None


def ensure_keys(settings: Settings) -> None:
    """Makes the key folder's files where they are missing; leaves what is there as it is."""
    settings.keys.mkdir(parents=True, exist_ok=True, mode=0o700)
    private = settings.keys / PRIVATE_KEY_FILE
    if not private.exists():
        key = Ed25519PrivateKey.generate()
        _write_secret(
            private,
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )
    key = serialization.load_pem_private_key(private.read_bytes(), password=None)
    assert isinstance(key, Ed25519PrivateKey)
    (settings.keys / JWKS_FILE).write_text(json.dumps({"keys": [_jwk(key)]}))
    token = TokenSigner(settings).sign_service("chirp", now=time.time())
    _write_secret(settings.keys / SERVICE_TOKEN_FILE, token.encode())


def _jwk(key: Ed25519PrivateKey) -> dict[str, str]:
    jwk = cast(dict[str, str], json.loads(OKPAlgorithm.to_jwk(key.public_key())))
    # RFC 7638 names a key by its thumbprint; a prefix of the public part serves as well.
    return {
        "kty": jwk["kty"],
        "crv": jwk["crv"],
        "x": jwk["x"],
        "kid": jwk["x"][:16],
        "alg": ALGORITHM,
        "use": "sig",
    }


def _write_secret(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
