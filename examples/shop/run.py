"""Run the shop under gunicorn, send it requests, and check that the scrape accounts for every one of them.

`make run` starts this program. It prints to the terminal, where gunicorn's own messages go too. The exit status
is 0 if the numbers agreed and gunicorn ended cleanly, 1 with a message on stderr if something went wrong, and 130
if it was interrupted before it had checked anything.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
CLIENTS = 8
READY_SECONDS = 20
ANSWER_SECONDS = 10
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the signals that end this program, and gunicorn with it
STOP_SECONDS = 40  # gunicorn itself gives its workers 30 seconds to finish
TRICKLE_SECONDS = 0.5
SEE_ABOVE = "gunicorn's messages above may say why"
SHOWN = (
    "shop_requests_total",
    "shop_request_seconds_count",
    "shop_requests_in_progress",
    "shop_carts_open",
    "shop_items_sold_total",
    "shop_order_value_euros_sum",
    "shop_order_value_euros_count",
    "mpmetrics_",
)


class Failure(Exception):  # noqa: N818 - the end of the program, told to its user
    """An error for the user; the message says what happened, where, and what to do."""


@dataclass(frozen=True)
class Visit:
    """One request that a customer makes."""

    path: str
    method: str = "GET"
    form: str = ""
    cart: str = ""


ROUND = (
    Visit("/"),
    Visit("/products/tea"),
    Visit("/products/pot"),
    Visit("/cart", "POST", form="sku=tea&quantity=2"),
    Visit("/cart", cart="tea:2"),
    Visit("/checkout", "POST", cart="tea:2|cup:1"),
    Visit("/products/cup"),
    Visit("/products/umbrella"),
    Visit("/admin.php"),
    Visit("/", "DELETE"),
)


def visits() -> Iterator[Visit]:
    """Yield requests without end: rounds through the shop, with a slow page after each fifth."""
    for number in itertools.count(1):
        yield from ROUND
        if number % 5 == 0:
            yield Visit("/slow")


def fetch(port: int, visit: Visit) -> tuple[int, str]:
    """Make one request and return status and body; raise `OSError` or `HTTPException` if no answer comes."""
    headers = {"Connection": "close"}
    if visit.method == "POST":
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    if visit.cart:
        headers["Cookie"] = f"cart={visit.cart}"
    connection = HTTPConnection(HOST, port, timeout=ANSWER_SECONDS)
    try:
        connection.request(visit.method, visit.path, body=visit.form or None, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back the signals that end this program until the block is done."""
    came: list[int] = []
    for number in ENDS:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number in ENDS:
            signal.signal(number, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt


@dataclass
class Shop:
    """gunicorn with the shop in it: started by `start`, ended by `stop`."""

    port: int
    metrics_port: int
    workers: int
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Start gunicorn and return when both the shop and the endpoint answer."""
        require_free(self.port, "the shop", "--port")
        require_free(self.metrics_port, "the metrics endpoint", "--metrics-port")
        command = [sys.executable, "-m", "gunicorn", "-c", "python:gunicorn_conf", "-w", str(self.workers)]
        command += ["-b", f"{HOST}:{self.port}", "examples.shop.app:app"]
        print("$", " ".join(["gunicorn", *command[3:]]), flush=True)
        # gunicorn gets its own process group: Ctrl-C reaches only this program, which then stops gunicorn in order.
        with uninterrupted():  # else gunicorn could start and this program not have its process id
            self.process = subprocess.Popen(  # noqa: S603 - the command is the one above
                command,
                cwd=ROOT,
                env={**os.environ, "MPMETRICS_BIND": f"{HOST}:{self.metrics_port}"},
                stdin=subprocess.DEVNULL,
                process_group=0,
            )
        deadline = time.monotonic() + READY_SECONDS
        while (missing := self.missing()) is not None:
            self.require_alive()
            if time.monotonic() > deadline:
                raise Failure(f"{missing} did not answer within {READY_SECONDS} seconds; {SEE_ABOVE}")
            time.sleep(0.1)

    def missing(self) -> str | None:
        """Return what does not answer yet. It only connects to the shop, because a request would count."""
        try:
            socket.create_connection((HOST, self.port), timeout=1).close()
        except OSError:
            return f"the shop on port {self.port}"
        try:
            status, _ = fetch(self.metrics_port, Visit("/metrics"))
        except (OSError, HTTPException):
            return f"the metrics endpoint on port {self.metrics_port}"
        return None if status == 200 else f"the metrics endpoint (it says {status})"

    def require_alive(self) -> None:
        """Raise `Failure` if gunicorn has ended by itself."""
        if self.process is not None and (status := self.process.poll()) is not None:
            raise Failure(f"gunicorn ended by itself, with exit status {status}; {SEE_ABOVE}")

    def visit(self, visit: Visit) -> None:
        """Make one request; raise `Failure` if no answer comes, or a server error."""
        try:
            status, _ = fetch(self.port, visit)
        except (OSError, HTTPException) as error:
            self.require_alive()
            raise Failure(f"{visit.method} {visit.path} was not answered: {error!r}") from error
        if status >= 500:
            raise Failure(f"{visit.method} {visit.path} was answered with {status}; {SEE_ABOVE}")

    def scrape(self) -> str:
        """Return the text of a scrape."""
        try:
            status, text = fetch(self.metrics_port, Visit("/metrics"))
        except (OSError, HTTPException) as error:
            self.require_alive()
            raise Failure(f"the metrics endpoint on port {self.metrics_port} did not answer: {error!r}") from error
        if status != 200:
            raise Failure(f"the metrics endpoint answered with status {status}")
        return text

    def stop(self) -> None:
        """End gunicorn with SIGTERM and wait for it; kill it if it does not end in time."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            status = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise Failure(f"gunicorn did not end within {STOP_SECONDS} seconds of SIGTERM and was killed") from None
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        if status not in (0, -signal.SIGTERM):  # the signal itself ends gunicorn before that has installed its handler
            raise Failure(f"gunicorn ended with exit status {status} after SIGTERM; {SEE_ABOVE}")


def require_free(port: int, what: str, option: str) -> None:
    """Raise `Failure` if another program listens on a port that we need."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gunicorn does: a port just left is free
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise Failure(
                f"port {port} on {HOST}, which {what} needs, is not available: {error.strerror}. "
                f"End what listens there, or choose another: python -m examples.shop.run {option} PORT"
            ) from error


def send_burst(shop: Shop, plan: Iterator[Visit], count: int) -> None:
    """Send `count` requests, a few at a time, and show the progress."""
    live = sys.stdout.isatty()
    pool = ThreadPoolExecutor(CLIENTS)
    try:
        answers = [pool.submit(shop.visit, visit) for visit in itertools.islice(plan, count)]
        for done, answer in enumerate(as_completed(answers), 1):
            answer.result()
            if live:
                print(f"\rsending requests: {done}/{count}", end="", flush=True)
    finally:
        pool.shutdown(cancel_futures=True)
    print("\r" * live + f"sent {count} requests, all answered", flush=True)


def check(text: str, sent: int) -> None:
    """Raise `Failure` unless the scrape counts exactly the requests that were sent."""
    families = text_string_to_metric_families(text)
    samples = [sample for family in families for sample in family.samples]
    counted = sum(sample.value for sample in samples if sample.name == "shop_requests_total")
    if counted != sent:
        raise Failure(f"{sent} requests were sent, but the scrape counts {counted:g} (did another client send some?)")
    print(f"\nthe scrape counts {counted:g} requests: all of them, over all workers")


def show(text: str) -> None:
    """Print the interesting series of a scrape."""
    print("\nfrom the scrape:")
    for line in text.splitlines():
        if line.startswith(SHOWN):
            print("  " + line)


def trickle(shop: Shop, plan: Iterator[Visit], deadline: float | None) -> None:
    """Send a request now and then, until the deadline (on the monotonic clock) or for ever."""
    while deadline is None or time.monotonic() < deadline:
        shop.visit(next(plan))
        left = TRICKLE_SECONDS if deadline is None else deadline - time.monotonic()
        time.sleep(max(0, min(TRICKLE_SECONDS, left)))


def run(options: argparse.Namespace) -> int:
    """Start, send, check, trickle, stop; return the exit status."""
    deadline = None if options.seconds is None else time.monotonic() + options.seconds
    shop = Shop(options.port, options.metrics_port, options.workers)
    plan = visits()
    interrupted = 130
    try:
        shop.start()
        send_burst(shop, plan, options.requests)
        text = shop.scrape()
        show(text)
        check(text, options.requests)
        interrupted = 0
        print(f"\nopen  http://{HOST}:{options.port}/  (the shop)")
        print(f"open  http://{HOST}:{options.metrics_port}/metrics  (what Prometheus would scrape)")
        print(
            "sending a request now and then;",
            "Ctrl-C ends it" if deadline is None else "it ends by itself",
            flush=True,
        )
        trickle(shop, plan, deadline)
    except KeyboardInterrupt:
        print("\nstopping", flush=True)
        return interrupted
    finally:
        shop.stop()
    return 0


def positive(text: str) -> int:
    """Read a number of at least 1 from the command line."""
    if (value := int(text)) < 1:
        raise ValueError
    return value


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m examples.shop.run", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, help="end after this many seconds (default: at Ctrl-C)")
    parser.add_argument(
        "--requests", type=positive, default=400, help="how many to send at first (default: %(default)s)"
    )
    parser.add_argument("--workers", type=positive, default=4, help="gunicorn's workers (default: %(default)s)")
    parser.add_argument("--port", type=positive, default=8000, help="where the shop listens (default: %(default)s)")
    parser.add_argument(
        "--metrics-port", type=positive, default=9464, help="the scrape endpoint (default: %(default)s)"
    )
    options = parser.parse_args()
    try:
        for number in ENDS:
            signal.signal(number, signal.default_int_handler)
        try:
            return run(options)
        except Failure as failure:
            for each in (failure.__context__, failure):  # the first failure, then the last one
                if isinstance(each, Failure):
                    print(f"\nfailed: {each}", file=sys.stderr)
            return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
