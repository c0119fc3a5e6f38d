"""The Temporal SDK's own metrics, in Prometheus' units, on a loopback port of their own."""

import socket

from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig


def runtime_with_metrics() -> tuple[Runtime, str]:
    """Returns a runtime for the client, and the URL of the SDK's metrics.

    The SDK serves them itself and does not report the port that it got, so a free one is found
    before; our own endpoint includes them.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    runtime = Runtime(
        telemetry=TelemetryConfig(
            metrics=PrometheusConfig(
                bind_address=address,
                counters_total_suffix=True,
                unit_suffix=True,
                durations_as_seconds=True,
            )
        )
    )
    return runtime, f"http://{address}/metrics"
