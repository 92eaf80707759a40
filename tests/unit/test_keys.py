import json
import time
from pathlib import Path

import jwt
import pytest

from domain.errors import Unauthenticated
from domain.ids import UserId
from mesh import files, keys
from mesh.access import SERVICES
from mesh.settings import Settings
from mesh.tokens import ServiceIdentity, TokenSigner, TokenVerifier

USER = UserId(7)
LEAD_S = 60
LIFETIME_S = 86_400


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(files, "LOOK_S", 0.0)
    made = Settings(keys=tmp_path / "keys", key_lead_s=LEAD_S, token_lifetime_s=LIFETIME_S)
    keys.ensure_keys(made)
    return made


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def key_of(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


def signed(signer: TokenSigner, clock: Clock) -> str:
    return signer.sign_user(USER, 1, lifetime_s=LIFETIME_S, now=clock.now)


def published(settings: Settings) -> list[str]:
    document = json.loads((settings.keys / keys.JWKS_FILE).read_text())
    return [member["kid"] for member in document["keys"]]


def test_a_new_key_is_published_before_it_signs_and_the_old_one_after_it(
    settings: Settings,
) -> None:
    clock, signer = Clock(), TokenSigner(settings)
    verifier = TokenVerifier(settings, clock)
    (old,) = published(settings)

    keys.rotate(settings, now=clock.now)
    new = published(settings)[-1]
    before = signed(signer, clock)
    clock.now += LEAD_S
    after = signed(signer, clock)

    assert published(settings) == [old, new]
    assert (key_of(before), key_of(after)) == (old, new)
    assert {verifier.verify(token).user_id for token in (before, after)} == {USER}


def test_an_old_key_stays_until_all_that_it_signed_has_expired(settings: Settings) -> None:
    clock, signer = Clock(), TokenSigner(settings)
    (first,) = published(settings)
    keys.rotate(settings, now=clock.now)
    clock.now += LEAD_S - 1
    last = signed(signer, clock)  # nothing later is signed by it
    verifier = TokenVerifier(settings, clock)

    clock.now += LIFETIME_S - 1
    keys.rotate(settings, now=clock.now)
    assert key_of(last) == first in published(settings)
    assert verifier.verify(last).user_id == USER

    clock.now += 2 * keys.MARGIN_S
    keys.rotate(settings, now=clock.now)
    assert first not in published(settings)
    with pytest.raises(Unauthenticated):
        verifier.verify(last)


def test_keys_do_not_change_while_a_change_is_under_way(settings: Settings) -> None:
    now = time.time()
    keys.rotate(settings, now=now)
    under_way = published(settings)

    keys.rotate(settings, now=now + LEAD_S - 2)
    assert published(settings) == under_way

    keys.rotate(settings, now=now + LEAD_S + 1)
    assert len(published(settings)) == 3


def test_after_a_revocation_no_older_token_is_good_not_even_a_verified_one(
    settings: Settings,
) -> None:
    clock, signer, verifier = Clock(), TokenSigner(settings), TokenVerifier(settings)
    token = signed(signer, clock)
    verifier.verify(token)

    keys.rotate(settings, now=clock.now, revoke=True)
    verifier.look()

    assert verifier.known(token) is None
    with pytest.raises(Unauthenticated):
        verifier.verify(token)
    assert verifier.verify(signed(signer, clock)).user_id == USER


def test_keys_that_are_there_stay_and_missing_ones_are_made(settings: Settings) -> None:
    before = published(settings)
    (settings.keys / keys.SERVICES_FOLDER / "chirp.pem").unlink()
    keys.ensure_keys(settings)

    assert published(settings) == before
    verifier = TokenVerifier(settings)
    for name in SERVICES:
        ((_, value),) = ServiceIdentity(settings, name).metadata
        assert verifier.verify(value.removeprefix("Bearer ")).service == name


def test_the_one_key_of_an_earlier_release_still_signs(settings: Settings) -> None:
    clock = Clock()
    token = signed(TokenSigner(settings), clock)
    document = json.loads((settings.keys / keys.JWKS_FILE).read_text())
    # An earlier release knew no services' keys, and no secret of the gateway.
    for path in (settings.keys / keys.SERVICES_FOLDER).iterdir():
        path.unlink()
    (settings.keys / keys.SERVICES_FILE).unlink()
    (settings.keys / keys.GATEWAY_SECRET_FILE).unlink()

    keys.ensure_keys(settings)

    assert json.loads((settings.keys / keys.JWKS_FILE).read_text()) == document
    assert TokenVerifier(settings).verify(token).user_id == USER


def test_a_services_token_is_renewed_before_it_expires_and_follows_its_key(
    settings: Settings,
) -> None:
    clock = Clock()
    identity, verifier = ServiceIdentity(settings, "chirp", clock), TokenVerifier(settings, clock)
    first = identity.metadata
    clock.now += 50
    assert identity.metadata is first
    clock.now += 20
    second = identity.metadata
    assert second != first

    keys.rotate(settings, now=clock.now, revoke=True)

    ((_, value),) = identity.metadata
    assert verifier.verify(value.removeprefix("Bearer ")).service == "chirp"


def test_private_files_are_their_owners_alone(settings: Settings) -> None:
    keys.rotate(settings, now=time.time())

    private = [
        settings.keys / keys.PRIVATE_KEY_FILE,
        settings.keys / keys.GATEWAY_SECRET_FILE,
        *(settings.keys / keys.SERVICES_FOLDER).iterdir(),
    ]
    assert {path.stat().st_mode & 0o777 for path in private} == {0o600}
    assert settings.keys.stat().st_mode & 0o777 == 0o700
    for name in (keys.JWKS_FILE, keys.SERVICES_FILE):
        document = json.loads((settings.keys / name).read_text())
        assert all("d" not in member for member in document["keys"])


def test_half_a_file_changes_nothing_for_a_running_server(settings: Settings) -> None:
    clock, signer, verifier = Clock(), TokenSigner(settings), TokenVerifier(settings)
    token = signed(signer, clock)

    (settings.keys / keys.JWKS_FILE).write_text('{"keys": [')
    verifier.look()

    assert verifier.verify(token).user_id == USER
