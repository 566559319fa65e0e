"""A timer, a counter and a meter, flushed into a Prometheus registry every second and served from there.

    python -m examples.registry_driver.demo
    curl http://127.0.0.1:8080/metrics

With ``--style gauges``, the series have the names that go-metrics-plus gives them.
"""

from __future__ import annotations

import argparse
import signal

from prometheus_client import CollectorRegistry, start_http_server

from mpmetrics.drivers import PrometheusDriver
from mpmetrics.registry import default_registry


def main() -> None:
    """Register some metrics and serve them until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Serve a registry's metrics.")
    parser.add_argument("--port", type=int, default=8080, help="port to serve at (default: %(default)s; 0: any)")
    parser.add_argument("--style", choices=("native", "gauges"), default="native", help="default: %(default)s")
    arguments = parser.parse_args()
    # From here on, in all threads, a Ctrl-C is held back until sigwait() below takes it. It interrupts nothing.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])

    default_registry.get_or_register_timer("myTimer").update(1.0)
    default_registry.get_or_register_counter("myCounter").inc(50)
    default_registry.get_or_register_meter("myMeter").mark(10)

    prometheus_registry = CollectorRegistry()
    driver = PrometheusDriver(
        default_registry, 1.0, "namespace", "subsystem", prometheus_registry, style=arguments.style
    )
    driver.once()
    driver.start()
    server, _ = start_http_server(arguments.port, "127.0.0.1", prometheus_registry)
    print(f"http://127.0.0.1:{server.server_port}/metrics", flush=True)
    signal.sigwait([signal.SIGINT])
    driver.stop()
    server.shutdown()
    server.server_close()


if __name__ == "__main__":
    main()
