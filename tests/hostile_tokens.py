"""Tokens that nobody may be let in with, each wrong in one way."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from mesh import keys
from mesh.keys import USERS, Key
from mesh.settings import Settings

USER = 1_000_001
HOUR_S = 3_600

Forger = Callable[[Settings], str]


def good(settings: Settings) -> str:
    """One that is right, made by the same means as the others: it proves them."""
    return _signed(settings)


def _signed(
    settings: Settings,
    *,
    without: str = "",
    key: Ed25519PrivateKey | None = None,
    header: dict[str, Any] | None = None,
    **changed: Any,
) -> str:
    claims = {**_claims(settings), **changed}
    claims.pop(without, None)
    own = _key(settings)
    private = key or own.private
    assert private is not None
    return jwt.encode(
        claims, private, "EdDSA", headers={"kid": own.key_id} if header is None else header
    )


def _by_hand(settings: Settings, algorithm: str, sign: Callable[[bytes], bytes]) -> str:
    header = {"alg": algorithm, "typ": "JWT", "kid": _key(settings).key_id}
    body = f"{_encoded(header)}.{_encoded(_claims(settings))}"
    return f"{body}.{_base64(sign(body.encode()))}"


def _hs256(secret_of: Callable[[Key], bytes]) -> Forger:
    def forge(settings: Settings) -> str:
        secret = secret_of(_key(settings))
        return _by_hand(
            settings, "HS256", lambda body: hmac.new(secret, body, hashlib.sha256).digest()
        )

    return forge


def _pem(key: Key) -> bytes:
    assert key.private is not None
    return key.private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _tampered(settings: Settings) -> str:
    header, _, signature = _signed(settings).split(".")
    return f"{header}.{_encoded({**_claims(settings), 'sub': '1'})}.{signature}"


def _own_key_in_the_header(settings: Settings) -> str:
    key = Ed25519PrivateKey.generate()
    jwk = json.loads(OKPAlgorithm.to_jwk(key.public_key()))
    return _signed(settings, key=key, header={"kid": "mine", "jwk": jwk})


def _by_a_service(settings: Settings) -> str:
    key = keys.read(settings, ("graph_server",))[0]
    return _signed(settings, key=key.private, header={"kid": key.key_id})


FORGERIES: dict[str, Forger] = {
    "HS256 by the public key": _hs256(lambda key: key.jwk["x"].encode()),
    "HS256 by the public key's bytes": _hs256(
        lambda key: base64.urlsafe_b64decode(key.jwk["x"] + "=")
    ),
    "HS256 by the public key's PEM": _hs256(_pem),
    "none": lambda settings: _by_hand(settings, "none", lambda _: b""),
    "NONE": lambda settings: _by_hand(settings, "NONE", lambda _: b""),
    "wrong issuer": lambda settings: _signed(settings, iss="else"),
    "no issuer": lambda settings: _signed(settings, without="iss"),
    "wrong audience": lambda settings: _signed(settings, aud="else"),
    "no audience": lambda settings: _signed(settings, without="aud"),
    "expired": lambda settings: _signed(settings, exp=int(time.time()) - 10),
    "no expiry": lambda settings: _signed(settings, without="exp"),
    "not valid yet": lambda settings: _signed(settings, nbf=int(time.time()) + HOUR_S),
    "unknown key id": lambda settings: _signed(
        settings, key=Ed25519PrivateKey.generate(), header={"kid": "unknown"}
    ),
    "no key id": lambda settings: _signed(settings, key=Ed25519PrivateKey.generate(), header={}),
    "another's key under ours' id": lambda settings: _signed(
        settings, key=Ed25519PrivateKey.generate()
    ),
    "a key in the header": _own_key_in_the_header,
    "tampered payload": _tampered,
    "cut": lambda settings: _signed(settings)[:-8],
    "signed by a service": _by_a_service,
    "no token": lambda _: "a.b.c",
}
"""Refused by the gateway, and by a server that is called directly."""

SERVERS_ONLY: dict[str, Forger] = {
    "signed in the future": lambda settings: _signed(settings, iat=int(time.time()) + HOUR_S),
    "no session": lambda settings: _signed(settings, without="sid"),
    "no number": lambda settings: _signed(settings, sub="ada"),
    "no subject": lambda settings: _signed(settings, without="sub"),
    "a service's, by the users' key": lambda settings: _signed(settings, sub="service:chirp"),
    "times that are none": lambda settings: _signed(settings, nbf="soon"),
    "empty": lambda _: "",
    "long": lambda _: "a" * 5_000,
}
"""Well signed, or too long: refused by every server, whatever the gateway says."""


def _claims(settings: Settings) -> dict[str, Any]:
    now = int(time.time())
    return {
        "sub": str(USER),
        "sid": "0",
        "iss": settings.token_issuer,
        "aud": settings.token_audience,
        "iat": now,
        "nbf": now,
        "exp": now + HOUR_S,
    }


def _key(settings: Settings) -> Key:
    return keys.read(settings, (USERS,))[0]


def _encoded(value: object) -> str:
    return _base64(json.dumps(value).encode())


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
