"""Who is let in to a method: by token, access rule, the certificate beside the token, and rate."""

from typing import Protocol, cast

from domain.errors import ServicesOnly, Unauthenticated
from domain.ids import UserId
from mesh import tls
from mesh.access import CALLERS, KINDS, RULES, Access
from mesh.rates import Admit, Rates
from mesh.requests import Metadata
from mesh.tokens import Claims

BEARER = "Bearer "
ANONYMOUS = Claims(None, 0, "", 0.0)


class Verifier(Protocol):
    """Says who calls: a `TokenVerifier`, or one that also asks whether sessions stand."""

    def known(self, token: str) -> Claims | None:
        """Returns who calls, where that is certain without waiting for anything."""
        ...

    async def admit(self, token: str) -> Claims:
        """Returns who calls; raises Unauthenticated where the token is not, or no longer, good."""
        ...

    def look(self) -> None:
        """Follows the keys; called every few seconds."""
        ...


class Door:
    """Lets callers of one method in, or not. Raises KeyError where no table knows the method."""

    __slots__ = ("_admit", "_callers", "_rule", "_verifier")

    def __init__(self, path: str, verifier: Verifier, rates: Rates | None) -> None:
        self._rule = RULES[path]
        self._verifier = verifier
        of_services = self._rule is Access.SERVICE
        self._callers: frozenset[str] = CALLERS[path] if of_services else frozenset()
        kind = None if of_services else KINDS[path]
        self._admit: Admit | None = None
        if rates is not None and kind is not None:
            self._admit = rates.gate(kind)

    async def enter(self, metadata: Metadata) -> Claims:
        """Returns who calls. Raises Unauthenticated or ServicesOnly where the rule forbids it, and
        RateLimited where the caller did so too often."""
        for key, value in metadata:
            if key == "authorization":
                text = value if isinstance(value, str) else value.decode("latin-1")
                if not text.startswith(BEARER):
                    raise Unauthenticated("the authorization header must be `Bearer <token>`")
                token = text[len(BEARER) :]
                claims = self._verifier.known(token)
                if claims is None:
                    claims = await self._verifier.admit(token)
                self._check(claims)
                if claims.service:
                    _check_peer(claims.service)
                # Session 0: a service, or what an operator signed with the private key.
                if self._admit is not None and claims.session_id:
                    waiting = self._admit(cast(UserId, claims.user_id))
                    if waiting is not None:
                        await waiting
                return claims
        if self._rule is not Access.OPEN:
            raise Unauthenticated("this method needs an access token")
        return ANONYMOUS

    def _check(self, claims: Claims) -> None:
        if self._rule is Access.OPEN:
            return
        if self._rule is Access.SERVICE:
            if not claims.service:
                raise ServicesOnly("this method is for Chirp's own services")
            if claims.service not in self._callers:
                raise ServicesOnly("this method is for other services")
        elif claims.user_id is None:
            raise Unauthenticated("this method needs a user's access token")


def _check_peer(service: str) -> None:
    # A token that got out is of no use without the private key of the service's certificate.
    peer = tls.PEER.get()
    if peer is not None and peer != service:
        raise Unauthenticated("the access token is not of the service whose certificate this is")
