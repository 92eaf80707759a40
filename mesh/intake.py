"""How many unary calls a process works on at once. One more is refused before it is read, and told
when to come again, which gRPC's own limit does not say.

A refusal costs a server as much as an empty call, about half a home read (decision 26): this bounds
what a server holds, and does not carry a flood. What comes from outside is refused by the gateway,
which is made for it (gateway/envoy.yaml, circuit_breakers).
"""

from typing import Any, Final, cast

import grpc
from grpc_status import rpc_status

from domain.errors import Overloaded
from mesh import errors

UNLIMITED: Final = 1 << 62

_REFUSAL: Final = Overloaded("the server has too many calls; try again")
_STATUS: Final = cast(Any, rpc_status.to_status(errors.to_status(_REFUSAL)))
_TRAILERS: Final = (*_STATUS.trailing_metadata, *errors.to_headers(_REFUSAL))


class Intake:
    """The unary calls of a process that are under way, how many may be, and who was refused."""

    __slots__ = ("busy", "calls_max", "refused")

    def __init__(self, calls_max: int) -> None:
        self.calls_max = calls_max
        self.busy = 0
        self.refused = 0


class Bounded(grpc.GenericRpcHandler):
    """The methods of a service, as long as there is room. Streams have a limit of their own."""

    def __init__(self, handler: grpc.GenericRpcHandler, intake: Intake) -> None:
        self._handler = handler
        self._intake = intake

    def service(self, handler_call_details: Any) -> Any:
        """Returns what handles a call, or refuses it."""
        found: Any = self._handler.service(handler_call_details)
        intake = self._intake
        if found is None or found.response_streaming or intake.busy < intake.calls_max:
            return found
        intake.refused += 1
        return _REFUSING


async def _refuse(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    # As `abort` does, without its exception: nothing is to be undone here.
    context.set_code(_STATUS.code)
    context.set_details(_STATUS.details)
    context.set_trailing_metadata(_TRAILERS)


# A stream of requests: gRPC does not wait for one before it asks the handler.
_REFUSING: Final = cast(Any, grpc.stream_stream_rpc_method_handler)(_refuse)
