"""Passwords are not guessed, and names not probed, faster than the quotas say."""

import asyncio
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from chirp.v1 import user_pb2

from domain.errors import RateLimited
from domain.rate import Limit
from mesh import catalogue, keys
from mesh.client_address import ADDRESS_HEADER, SECRET_HEADER, ClientAddresses
from mesh.metrics import Sample
from mesh.settings import Settings
from servers import graph_server
from servers.sign_in_throttle import SignInThrottle
from storage import valkey
from storage.signins import Quota, SignInStore
from tests.integration.accounts import PASSWORD, Account, Accounts, open_accounts
from tests.integration.conftest import Serve
from tests.refused import failure

NAME_QUOTA, ADDRESS_QUOTA = 3, 5
DEADLINE_S = 10.0
Metadata = tuple[tuple[str, str], ...]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(
        update={
            "sign_in_account": f"{NAME_QUOTA}/3600",
            "sign_in_address": f"{ADDRESS_QUOTA}/3600",
            "sign_up_address": f"{ADDRESS_QUOTA}/3600",
        }
    )


def by_gateway(settings: Settings, address: str) -> Metadata:
    return (
        (SECRET_HEADER, keys.gateway_secret(settings.keys)),
        (ADDRESS_HEADER, address),
    )


def sign_in(
    accounts: Accounts, name: str, password: str = "wrong horse", metadata: Metadata = ()
) -> Awaitable[user_pb2.CreateSessionResponse]:
    return accounts.users.CreateSession(
        user_pb2.CreateSessionRequest(username=name, password=password), metadata=metadata
    )


def sign_up(
    accounts: Accounts, name: str, metadata: Metadata = ()
) -> Awaitable[user_pb2.CreateUserResponse]:
    return accounts.users.CreateUser(
        user_pb2.CreateUserRequest(username=name, password=PASSWORD), metadata=metadata
    )


async def reason(call: Awaitable[object]) -> str:
    return (await failure(call)).reason


async def test_a_name_has_its_quota_of_wrong_passwords_whoevers_it_is(accounts: Accounts) -> None:
    await accounts.sign_up("ada")

    told: list[list[object]] = []
    for name in ("ada", "nobody", "ADA"):
        tries = NAME_QUOTA + 1 if name != "ADA" else 1
        told.append([await failure(sign_in(accounts, name)) for _ in range(tries)])

    # The same words whether the name is anybody's or not, so neither answer tells.
    assert told[0][:NAME_QUOTA] == told[1][:NAME_QUOTA]
    for refused in (told[0][-1], told[1][-1], told[2][0]):
        assert getattr(refused, "code") is grpc.StatusCode.RESOURCE_EXHAUSTED  # noqa: B009
        assert getattr(refused, "reason") == "RATE_LIMITED"  # noqa: B009
    # The right password is not looked at either.
    assert await reason(sign_in(accounts, "ada", PASSWORD)) == "RATE_LIMITED"


async def test_a_refusal_says_when_to_come_back(accounts: Accounts) -> None:
    for _ in range(NAME_QUOTA):
        await failure(sign_in(accounts, "ada"))

    refused = await failure(sign_in(accounts, "ada"))

    interval_s = 3_600 // NAME_QUOTA
    assert refused.retry_after_s is not None
    assert interval_s - 10 < refused.retry_after_s <= interval_s
    assert refused.headers["retry-after"] == str(refused.retry_after_s)


async def test_who_knows_the_password_signs_in_as_often_as_they_like(accounts: Accounts) -> None:
    await accounts.sign_up("ada")

    for _ in range(2 * NAME_QUOTA):
        await sign_in(accounts, "ada", PASSWORD)

    # And helps nobody's guesses: what was guessed wrongly stays counted.
    for _ in range(NAME_QUOTA - 1):
        assert await reason(sign_in(accounts, "ada")) == "BAD_CREDENTIALS"
    await sign_in(accounts, "ada", PASSWORD)
    assert await reason(sign_in(accounts, "ada")) == "BAD_CREDENTIALS"
    assert await reason(sign_in(accounts, "ada")) == "RATE_LIMITED"


async def test_of_attempts_at_once_no_more_than_the_quota_are_looked_at(
    accounts: Accounts,
) -> None:
    refused = await asyncio.gather(*(reason(sign_in(accounts, "ada")) for _ in range(20)))

    assert sorted(refused) == (
        ["BAD_CREDENTIALS"] * NAME_QUOTA + ["RATE_LIMITED"] * (20 - NAME_QUOTA)
    )


async def test_an_address_has_its_quota_over_all_names(accounts: Accounts) -> None:
    here = by_gateway(accounts.settings, "192.0.2.1")
    there = by_gateway(accounts.settings, "192.0.2.2")

    tried = [await reason(sign_in(accounts, f"name_{n}", metadata=here)) for n in range(7)]

    assert tried == ["BAD_CREDENTIALS"] * ADDRESS_QUOTA + ["RATE_LIMITED"] * 2
    assert await reason(sign_in(accounts, "name_0", metadata=there)) == "BAD_CREDENTIALS"
    # What is refused by its address takes nothing from the name.
    for _ in range(NAME_QUOTA):
        await failure(sign_in(accounts, "grace", metadata=here))
    assert await reason(sign_in(accounts, "grace", metadata=there)) == "BAD_CREDENTIALS"


async def test_the_addresses_of_one_network_of_ipv6_are_one(accounts: Accounts) -> None:
    tried = [
        await reason(
            sign_in(
                accounts, f"name_{n}", metadata=by_gateway(accounts.settings, f"2001:db8::{n:x}")
            )
        )
        for n in range(ADDRESS_QUOTA + 1)
    ]

    assert tried == ["BAD_CREDENTIALS"] * ADDRESS_QUOTA + ["RATE_LIMITED"]


@pytest.mark.parametrize(
    "secret", [(), ((SECRET_HEADER, ""),), ((SECRET_HEADER, "guessed"),)], ids=str
)
async def test_an_address_is_believed_from_the_gateway_only(
    accounts: Accounts, secret: Metadata
) -> None:
    victim = ((ADDRESS_HEADER, "192.0.2.1"),)
    for n in range(2 * ADDRESS_QUOTA):
        assert (
            await reason(sign_in(accounts, f"name_{n}", metadata=(*secret, *victim)))
            == "BAD_CREDENTIALS"
        )

    # Nobody used up the quota of an address that is not theirs.
    here = by_gateway(accounts.settings, "192.0.2.1")
    assert await reason(sign_in(accounts, "ada", metadata=here)) == "BAD_CREDENTIALS"


async def test_sign_ups_of_an_address_and_probes_for_taken_names_are_bounded(
    accounts: Accounts,
) -> None:
    here = by_gateway(accounts.settings, "192.0.2.1")
    await sign_up(accounts, "ada", here)

    tried = [await reason(sign_up(accounts, name, here)) for name in ("ada", "Ada")]
    for n in range(ADDRESS_QUOTA - 3):
        await sign_up(accounts, f"new_{n}", here)
    beyond = [await reason(sign_up(accounts, name, here)) for name in ("ada", "free")]

    assert tried == ["USERNAME_TAKEN"] * 2
    assert beyond == ["RATE_LIMITED"] * 2  # which tells nothing of either name
    assert await reason(sign_in(accounts, "ada", metadata=here)) == "BAD_CREDENTIALS"
    # By its name, from anywhere.
    assert await reason(sign_up(accounts, "ada")) == "RATE_LIMITED"


async def test_all_replicas_count_together(
    accounts: Accounts, settings: Settings, serve: Serve
) -> None:
    channel = await serve(graph_server.open_process)
    async with open_accounts(settings, channel) as other:
        tried = [
            await reason(sign_in(each, "ada"))
            for _ in range(NAME_QUOTA)
            for each in (accounts, other)
        ]

    assert tried == ["BAD_CREDENTIALS"] * NAME_QUOTA + ["RATE_LIMITED"] * NAME_QUOTA


async def test_a_quota_comes_back_evenly(settings: Settings) -> None:
    async with valkey.connect(settings.valkey_url, settings) as cache:
        store = SignInStore(cache)
        quota = Quota("sign_in_account", "ada", Limit(2, 1))
        assert [await store.attempt([quota]) for _ in range(2)] == [None, None]
        refusal = await store.attempt([quota])
        assert refusal is not None
        assert 0 < refusal.wait_us <= 500_000

        started = time.monotonic()
        async with asyncio.timeout(DEADLINE_S):
            while await store.attempt([quota]) is not None:
                await asyncio.sleep(0.01)

        assert time.monotonic() - started >= refusal.wait_us / 1_000_000 - 0.05
        # Keys go by themselves, and hold nothing that anybody typed.
        found: list[bytes] = await cast(Any, cache).keys("{signins}*")
        (key,) = found
        assert b"ada" not in key
        assert 0 < await cache.pttl(key) <= 1_000


async def test_without_valkey_everybody_is_let_in_and_a_metric_says_so(
    accounts: Accounts, settings: Settings, tmp_path: Path
) -> None:
    nowhere = settings.model_copy(update={"valkey_url": "redis://127.0.0.1:1/0"})
    async with valkey.connect(nowhere.valkey_url, nowhere) as cache:
        throttle = SignInThrottle(SignInStore(cache), ClientAddresses(settings), settings)

        for _ in range(NAME_QUOTA + 1):
            await throttle.sign_in("ada", by_gateway(settings, "192.0.2.1"))
        await throttle.sign_up("ada", ())

        found = await throttle.collect()
        assert Sample(catalogue.SIGN_INS_UNCHECKED, NAME_QUOTA + 1, ("sign_in",)) in found
        assert Sample(catalogue.SIGN_INS_UNCHECKED, 1, ("sign_up",)) in found
        assert Sample(catalogue.SIGN_INS_REFUSED, 0, ("sign_in",)) in found


async def test_refusals_are_counted(settings: Settings) -> None:
    async with valkey.connect(settings.valkey_url, settings) as cache:
        throttle = SignInThrottle(SignInStore(cache), ClientAddresses(settings), settings)
        for _ in range(NAME_QUOTA):
            await throttle.sign_in("ada", ())
        with pytest.raises(RateLimited):
            await throttle.sign_in("ada", ())

        assert Sample(catalogue.SIGN_INS_REFUSED, 1, ("sign_in",)) in await throttle.collect()


async def test_sign_in_takes_as_long_for_a_name_that_is_nobodys(accounts: Accounts) -> None:
    names: list[Account] = [await accounts.sign_up(f"known_{n}") for n in range(8)]
    await failure(sign_in(accounts, "warm_up"))
    known, unknown = list[float](), list[float]()

    for n, account in enumerate(names):
        for name, times in ((account.username, known), (f"unknown_{n}", unknown)):
            started = time.perf_counter()
            assert await reason(sign_in(accounts, name)) == "BAD_CREDENTIALS"
            times.append(time.perf_counter() - started)

    # The shortest of many: what the machine does beside is in the others.
    assert 0.7 < min(known) / min(unknown) < 1.4
