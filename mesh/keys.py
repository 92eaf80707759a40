"""The key folder: which Ed25519 keys sign for whom, since when, and for how long they are believed.

    private.pem           signs users' tokens; graph_server's and the command line's
    jwks.json             its public keys, published at /.well-known/jwks.json
    services/<name>.pem   signs the tokens of one service: its own, and the command line's
    services.json         the public keys of all services, not published

A private file holds one key, or while keys change two. A public one is a JSON Web Key Set, with two
more members of each key: `iat`, when it was published, and `exp`, when the last token that it
signed has expired. How keys change, without anybody noticing (`rotate`):
 1. A new key is published. Everybody who verifies follows the files, the gateway by asking.
 2. `key_lead_s` later it signs; the old one no longer does, and is believed until its `exp`.
 3. A later change removes what nobody needs any more.
Files are replaced whole, public ones first: a crash between leaves a key that signs nothing.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from mesh import files
from mesh.access import SERVICES
from mesh.files import Watch
from mesh.settings import Settings

ALGORITHM = "EdDSA"
PRIVATE_KEY_FILE = "private.pem"
JWKS_FILE = "jwks.json"
SERVICES_FOLDER = "services"
SERVICES_FILE = "services.json"
GATEWAY_SECRET_FILE = "gateway.secret"  # noqa: S105 - the name of a file
LOCK_FILE = "lock"

USERS = ""
"""The owner of the keys that sign users' tokens; a service's keys bear its name."""

SERVICE_TOKEN_LIFETIME_MAX_S = 3_600
MARGIN_S = 60  # clocks differ, and a token may be signed while keys change

PEM_END = b"-----END PRIVATE KEY-----\n"


@dataclass(frozen=True, slots=True)
class Key:
    """A key of one owner, with its private part where it may still sign."""

    owner: str
    jwk: dict[str, str]
    published_at: int
    """Unix seconds; 0 where nobody needs to wait for it."""
    good_until: int | None
    """When the last of its tokens has expired; None while it signs, or will."""
    private: Ed25519PrivateKey | None

    @property
    def key_id(self) -> str:
        """`kid` in the tokens that it signs."""
        return self.jwk["kid"]

    def signs_from(self, settings: Settings) -> int:
        """Returns when everybody who verifies has had the time to learn of it."""
        return self.published_at + settings.key_lead_s if self.published_at else 0


class PublishedKeys:
    """The document of the users' public keys, as it is now. Raises OSError where there is none."""

    def __init__(self, settings: Settings) -> None:
        self._path = settings.keys / JWKS_FILE
        self._watch = Watch(self._path)
        self._document = self._path.read_bytes()

    def document(self) -> bytes:
        """Returns jwks.json; costs nothing where it was looked at just now."""
        if self._watch.changed():
            self._document = self._path.read_bytes()
        return self._document


def ensure_keys(settings: Settings) -> None:
    """Makes the key folder's files where they are missing; leaves the keys that are there."""
    settings.keys.mkdir(parents=True, exist_ok=True, mode=0o700)
    with files.locked(settings.keys / LOCK_FILE):
        found = read(settings)
        for owner in (USERS, *SERVICES):
            if not any(key.private for key in found if key.owner == owner):
                found.append(_generate(owner, published_at=0))
        _write(settings, found)
        if not (settings.keys / GATEWAY_SECRET_FILE).exists():
            # Of an earlier release: nobody believes it any more.
            (settings.keys / "service.jwt").unlink(missing_ok=True)
            files.replace(settings.keys / GATEWAY_SECRET_FILE, os.urandom(32).hex().encode(), 0o600)


def rotate(settings: Settings, *, now: float, revoke: bool = False) -> list[Key]:
    """Publishes a new key for users' tokens and for each service, and removes those whose tokens
    have all expired. Returns the keys that are there now.

    Does nothing but remove for an owner whose newest key does not sign yet. `revoke` removes all
    keys but the new ones: every token is refused from now on, as after a theft."""
    with files.locked(settings.keys / LOCK_FILE):
        found = read(settings)
        kept: list[Key] = []
        for owner in (USERS, *SERVICES):
            of_owner = [key for key in found if key.owner == owner]
            kept += _rotated(owner, of_owner, settings, int(now), revoke=revoke)
        _write(settings, kept)
        return read(settings)


def read(settings: Settings, owners: Iterable[str] = (USERS, *SERVICES)) -> list[Key]:
    """Returns the keys of these owners, those published first at the head of each owner's; the
    private parts of those whose file can be read."""
    found: list[Key] = []
    for owner in owners:
        privates = {_jwk(key)["kid"]: key for key in _read_private(_private_file(settings, owner))}
        for member in _read_public(settings, owner):
            private = privates.pop(member["kid"], None)
            found.append(
                Key(
                    owner,
                    {name: member[name] for name in ("kty", "crv", "x", "kid", "alg", "use")},
                    int(member.get("iat", 0)),
                    int(member["exp"]) if "exp" in member else None,
                    private,
                )
            )
        # Made by an earlier release, or half made: nobody knows of it yet.
        found += [Key(owner, _jwk(key), 0, None, key) for key in privates.values()]
    return sorted(found, key=lambda key: (key.owner, key.published_at))


def signing_key(keys: Sequence[Key], settings: Settings, *, now: float) -> Key | None:
    """Returns which of one owner's keys signs now: the newest that everybody knows. None where
    there is no private key."""
    able = [key for key in keys if key.private is not None]
    known = [key for key in able if key.signs_from(settings) <= now]
    if known:
        return known[-1]
    return able[0] if able else None


def private_files(settings: Settings, owner: str) -> tuple[Path, Path]:
    """Returns the two files that say what an owner signs with."""
    return _private_file(settings, owner), _public_file(settings, owner)


def public_files(settings: Settings) -> tuple[Path, Path]:
    """Returns the two files that say what to believe."""
    return settings.keys / JWKS_FILE, settings.keys / SERVICES_FILE


def read_public(settings: Settings) -> dict[str, tuple[str, dict[str, Any]]]:
    """Returns owner and public key of everything that is believed, by key id. Raises OSError where
    the users' keys are not there."""
    if not (settings.keys / JWKS_FILE).exists():
        raise FileNotFoundError(f"{settings.keys / JWKS_FILE} is not there: run `chirp migrate`")
    return {
        member["kid"]: (owner, member)
        for owner in (USERS, *SERVICES)
        for member in _read_public(settings, owner)
    }


def gateway_secret(folder: Path) -> str:
    """Returns the word by which servers know the gateway."""
    return (folder / GATEWAY_SECRET_FILE).read_text()


def _rotated(
    owner: str, keys: list[Key], settings: Settings, now: int, *, revoke: bool
) -> list[Key]:
    new = _generate(owner, published_at=now)
    if revoke:
        return [new]
    kept = [key for key in keys if key.good_until is None or key.good_until > now]
    signing = signing_key(kept, settings, now=now)
    if kept and kept[-1].signs_from(settings) > now:
        return kept
    lifetime_s = SERVICE_TOKEN_LIFETIME_MAX_S if owner else settings.token_lifetime_s
    good_until = now + settings.key_lead_s + lifetime_s + MARGIN_S
    retired = [
        replace(
            key,
            good_until=key.good_until or good_until,
            private=key.private if key is signing else None,
        )
        for key in kept
    ]
    return [*retired, new]


def _generate(owner: str, *, published_at: int) -> Key:
    private = Ed25519PrivateKey.generate()
    return Key(owner, _jwk(private), published_at, None, private)


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


def _private_file(settings: Settings, owner: str) -> Path:
    if not owner:
        return settings.keys / PRIVATE_KEY_FILE
    return settings.keys / SERVICES_FOLDER / f"{owner}.pem"


def _public_file(settings: Settings, owner: str) -> Path:
    return settings.keys / (SERVICES_FILE if owner else JWKS_FILE)


def _read_private(path: Path) -> list[Ed25519PrivateKey]:
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
    keys = [
        serialization.load_pem_private_key(block + PEM_END, password=None)
        for block in content.split(PEM_END)
        if block.strip()
    ]
    return [key for key in keys if isinstance(key, Ed25519PrivateKey)]


def _read_public(settings: Settings, owner: str) -> list[dict[str, Any]]:
    try:
        document = json.loads(_public_file(settings, owner).read_text())
    except FileNotFoundError:
        return []
    return [key for key in document["keys"] if key.get("service", USERS) == owner]


def _write(settings: Settings, keys: Sequence[Key]) -> None:
    (settings.keys / SERVICES_FOLDER).mkdir(exist_ok=True, mode=0o700)
    for path, of_users in ((JWKS_FILE, True), (SERVICES_FILE, False)):
        members = [_member(key) for key in keys if (key.owner == USERS) is of_users]
        content = json.dumps({"keys": members}, indent=1).encode()
        if (settings.keys / path).exists() and (settings.keys / path).read_bytes() == content:
            continue
        files.replace(settings.keys / path, content, 0o644)
    for owner in (USERS, *SERVICES):
        blocks = [
            key.private.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            for key in keys
            if key.owner == owner and key.private is not None
        ]
        path = _private_file(settings, owner)
        if not path.exists() or path.read_bytes() != b"".join(blocks):
            files.replace(path, b"".join(blocks), 0o600)


def _member(key: Key) -> dict[str, Any]:
    times = {"iat": key.published_at or None, "exp": key.good_until}
    service = {"service": key.owner} if key.owner else {}
    known = {name: value for name, value in times.items() if value is not None}
    return {**key.jwk, **service, **known}
