"""Limits of gateway/envoy.yaml that must agree with each other."""

from typing import Any

import yaml

from ops import gateway

LISTENER: dict[str, Any] = yaml.safe_load(gateway.render(gateway.Gateway()))["static_resources"][
    "listeners"
][0]


def test_a_body_fits_into_the_buffer_of_its_connection():
    # Else Envoy stops reading before the filter that holds bodies back has all of one: it waits for
    # ever, but only where the rest of the body comes late enough.
    manager = LISTENER["filter_chains"][0]["filters"][0]["typed_config"]
    (body_max,) = (
        each["typed_config"]["max_request_bytes"]
        for each in manager["http_filters"]
        if each["name"] == "envoy.filters.http.buffer"
    )

    assert LISTENER["per_connection_buffer_limit_bytes"] > body_max
