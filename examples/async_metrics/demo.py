"""The three asynchronous instruments, one callback for all of them, and an endpoint that shows them.

The callback runs when a scrape comes, and only then: each request for the metrics prints a line here.

    python -m examples.async_metrics.demo
    curl http://127.0.0.1:8000/metrics

With ``--plain``, names are shown without units and without the suffixes of counters.
"""

from __future__ import annotations

import argparse
import signal
from typing import TYPE_CHECKING

import mpmetrics

if TYPE_CHECKING:
    from mpmetrics import MeterObserver

meter = mpmetrics.get_meter("examples.async_metrics.demo", version="1.0")

counter = meter.observable_counter("demo.observable_counter", help="A total that only grows", unit="%")
up_down_counter = meter.observable_up_down_counter(
    "demo.observable_up_down_counter", help="A total that goes up and down", unit="%"
)
gauge = meter.observable_gauge("demo.observable_gauge", help="A value of the moment", unit="%")


@meter.callback(counter, up_down_counter, gauge)
def read(observer: MeterObserver) -> None:
    """Report all three. The observed values are totals so far, so each scrape shows the same."""
    print("the callback runs", flush=True)
    observer.observe(counter, 10)
    observer.observe(up_down_counter, 20)
    observer.observe(gauge, 30)


def main() -> None:
    """Serve the metrics until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Serve three asynchronous instruments.")
    parser.add_argument("--port", type=int, default=8000, help="port to serve at (default: %(default)s; 0: any)")
    parser.add_argument("--plain", action="store_true", help="show names without units and counter suffixes")
    arguments = parser.parse_args()
    # From here on, in all threads, a Ctrl-C is held back until sigwait() below takes it. It interrupts nothing.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    options = mpmetrics.ExporterOptions(without_counter_suffixes=arguments.plain, without_units=arguments.plain)
    server = mpmetrics.start_http_server(arguments.port, source=mpmetrics.Collector(options=options))
    print(f"http://127.0.0.1:{server.port}/metrics", flush=True)
    signal.sigwait([signal.SIGINT])
    server.close()


if __name__ == "__main__":
    main()
