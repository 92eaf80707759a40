"""Every token that is wrong in one way, at the gateway: none reaches a server."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import grpc
import httpx
import pytest
from chirp.v1 import user_pb2, user_pb2_grpc

from domain.ids import UserId
from mesh import keys
from mesh.client_address import ADDRESS_HEADER, SECRET_HEADER, ClientAddresses
from mesh.keys import USERS
from mesh.tokens import ServiceIdentity, TokenSigner, TokenVerifier
from ops import embedded, gateway
from tests import hostile_tokens
from tests.e2e.gateway_stack import BIG_ID, Stack, running_envoy, stack, until_status
from tests.hostile_tokens import FORGERIES, Forger

__all__ = ["stack"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

FOLLOW_S = 60.0  # how soon everybody knows a new key, as promised


async def test_the_token_that_the_others_are_made_of_is_good(stack: Stack) -> None:
    bearer = {"authorization": f"Bearer {hostile_tokens.good(stack.settings)}"}

    assert (await stack.rest.get("/api/me", headers=bearer)).status_code == 200


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
async def test_it_reaches_no_server(stack: Stack, forge: Forger) -> None:
    token = forge(stack.settings)
    stack.seen.clear()

    for path in ("/api/me", "/api/tweets/5"):  # one that needs a token, one that is open
        answer = await stack.rest.get(path, headers={"authorization": f"Bearer {token}"})
        assert answer.status_code == 401
        assert answer.json()["details"][0]["reason"] == "UNAUTHENTICATED"
    answer = await stack.rest.get(f"/api/trends:stream?access_token={token}")
    assert answer.status_code == 401
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await user_pb2_grpc.UserServiceStub(stack.channel).GetMe(
            user_pb2.GetMeRequest(), metadata=(("authorization", f"Bearer {token}"),)
        )
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED

    assert stack.seen == []


async def test_a_services_token_is_refused_from_outside(stack: Stack) -> None:
    stack.seen.clear()
    headers = dict(ServiceIdentity(stack.settings, "timeline_server").metadata)

    for path in ("/api/me", "/api/tweets/5"):
        assert (await stack.rest.get(path, headers=headers)).status_code == 401

    assert stack.seen == []


async def test_the_gateway_follows_new_keys_and_the_old_tokens_stay_good(stack: Stack) -> None:
    settings = stack.settings.model_copy(update={"key_lead_s": 0})
    old = hostile_tokens.good(stack.settings)
    keys.rotate(settings, now=time.time())
    new = TokenSigner(settings).sign_user(UserId(BIG_ID), 0, lifetime_s=600, now=time.time())
    assert len(keys.read(settings, (USERS,))) == 2

    started = time.monotonic()
    async with asyncio.timeout(FOLLOW_S):
        # Nobody signs with a key so early but a test: it is refused until it is known.
        while (await _status(stack, new)) != 200:
            assert await _status(stack, old) == 200
            await asyncio.sleep(0.05)

    assert time.monotonic() - started < 2 * settings.jwks_cache_s
    assert await _status(stack, old) == 200
    assert TokenVerifier(settings).verify(new).user_id == BIG_ID
    assert [seen.call.user_id for seen in stack.seen[-2:]] == [BIG_ID, hostile_tokens.USER]


async def test_servers_are_told_the_clients_address_by_the_gateway_and_by_nobody_else(
    stack: Stack,
) -> None:
    stack.seen.clear()
    spoofed = {SECRET_HEADER: "guessed", ADDRESS_HEADER: "192.0.2.1"}

    await stack.rest.post(
        "/api/sessions", json={"username": "ada", "password": "p"}, headers=spoofed
    )
    await stack.rest.get("/api/users/7", headers=spoofed)

    addresses = ClientAddresses(stack.settings)
    signing_in, reading = [seen.call.metadata for seen in stack.seen]
    assert addresses.of(signing_in) == "127.0.0.1"
    assert addresses.of(reading) is None
    assert not {SECRET_HEADER, ADDRESS_HEADER} & dict(reading).keys()


async def _status(stack: Stack, token: str) -> int:
    answer = await stack.rest.get("/api/me", headers={"authorization": f"Bearer {token}"})
    return answer.status_code


async def test_a_gateway_that_never_learned_a_key_says_that_a_part_is_down(
    stack: Stack, tmp_path: Path
) -> None:
    alone = replace(
        stack.described,
        listen=gateway.Endpoint("127.0.0.1", embedded.free_port()),
        admin_port=embedded.free_port(),
        graph_server=[gateway.Endpoint("127.0.0.1", embedded.free_port())],
        access_log=tmp_path / "access.log",
    )
    configuration = tmp_path / "envoy.yaml"
    configuration.write_text(gateway.render(alone))
    async with (
        running_envoy(configuration),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{alone.listen.port}") as rest,
        grpc.aio.insecure_channel(f"127.0.0.1:{alone.listen.port}") as channel,
    ):
        await until_status(rest, 503)

        signed_in = await rest.get("/api/tweets/5", headers=stack.bearer)
        nobody = await rest.get("/api/tweets/5")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await user_pb2_grpc.UserServiceStub(channel).GetMe(
                user_pb2.GetMeRequest(), metadata=tuple(stack.bearer.items())
            )

    assert (signed_in.status_code, signed_in.headers["retry-after"]) == (503, "1")
    assert signed_in.json()["details"][0]["reason"] == "UNAVAILABLE"
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert nobody.status_code == 200
