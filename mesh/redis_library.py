"""Imports redis-py without OpenTelemetry. Where that is installed, redis-py takes in its SDK, for
metrics of its own that nobody asks for: 70 ms and 2 MB of each process. Whatever may be the first
to import redis imports this before.
"""

import sys

_known = sys.modules.get("opentelemetry")
sys.modules["opentelemetry"] = None  # pyright: ignore[reportArgumentType] - what is None cannot be imported
try:
    from redis import asyncio, backoff, exceptions
    from redis.asyncio import retry
finally:
    del sys.modules["opentelemetry"]
    if _known is not None:
        sys.modules["opentelemetry"] = _known

__all__ = ["asyncio", "backoff", "exceptions", "retry"]
