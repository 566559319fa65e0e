"""Drivers under gunicorn: one for the whole server, in the collector process."""

from __future__ import annotations

import os
import re
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Serve = Callable[..., Any]

APPLICATION = """
import os
from mpmetrics.registry import default_registry

SERVED = default_registry.get_or_register_meter("served")
default_registry.get_or_register_gauge("answer", function=lambda: 42.0)
TOOK = default_registry.get_or_register_timer("took")

def app(environ, start_response):
    with TOOK.time():
        SERVED.mark()
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]
"""

CONFIG = """
from mpmetrics.drivers import PrometheusDriver, PushgatewayDriver, TextfileDriver
from mpmetrics.integrations.gunicorn import install
from mpmetrics.registry import default_registry

install(globals(), drivers=[
    PrometheusDriver(default_registry, 0.1, "shop"),
    PushgatewayDriver(None, "{gateway}", "shop", interval=0.1, grouping_key={{"instance": "here"}}),
    TextfileDriver(default_registry, "{home}/shop.prom", interval=0.1),
])
"""


class Handler(BaseHTTPRequestHandler):
    """Records the requests that it gets."""

    def do_PUT(self) -> None:
        """Take a push."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.command, body))  # type: ignore[attr-defined]
        self.send_response(202)
        self.end_headers()

    def do_DELETE(self) -> None:
        """Take a deletion."""
        self.do_PUT()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def gateway() -> Iterator[Any]:
    """A server that accepts pushes."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("preload", [(), ("--preload",)])
def test_the_whole_server(serve: Serve, gateway: Any, preload: tuple[str, ...]) -> None:
    """Scrape, gateway and file show what all workers did, killed ones included; push and file are gone at the end."""
    server = serve(*preload, "-w", "3", config="")
    (server.home / "shopapp.py").write_text(APPLICATION)
    (server.home / "conf.py").write_text(CONFIG.format(gateway=f"127.0.0.1:{gateway.server_port}", home=server.home))
    server.start()
    asked = 1  # from the start

    def total(text: str) -> float:
        return sum(float(value) for value in re.findall(r"^(?:shop_)?served_total (\S+)$", text, re.MULTILINE))

    for _ in range(3):
        for _ in range(10):
            pid = int(server.get("/"))
            asked += 1
        os.kill(pid, signal.SIGKILL)
        server.wait_for(lambda wanted=asked: total(server.scrape()) >= wanted, what=f"{asked} in {server.scrape()}")
    server.wait_for(lambda: "\nshop_answer 42.0\n" in server.scrape(), what="the functional gauge")
    text = server.scrape()
    assert asked == total(text)
    assert f"shop_took_seconds_count {asked}.0" in text
    assert 'mpmetrics_driver_runs_total{driver="PrometheusDriver' in text
    server.wait_for(lambda: gateway.requests and total(gateway.requests[-1][1].decode()) == asked, what="the push")
    server.wait_for(lambda: total((server.home / "shop.prom").read_text()) == asked, what="the file")

    server.stop()
    assert "DELETE" == gateway.requests[-1][0]
    assert not (server.home / "shop.prom").exists()


def test_a_collector_that_dies_is_replaced_with_its_drivers(serve: Serve, gateway: Any) -> None:
    """After the collector died, its successor pushes the same totals."""
    server = serve("-w", "2", config="")
    (server.home / "shopapp.py").write_text(APPLICATION)
    (server.home / "conf.py").write_text(CONFIG.format(gateway=f"127.0.0.1:{gateway.server_port}", home=server.home))
    server.start()
    server.wait_for(lambda: gateway.requests and b"shop_served_total 1.0" in gateway.requests[-1][1], what="a push")
    os.kill(server.collector(), signal.SIGKILL)
    seen = len(gateway.requests)
    server.wait_for(lambda: len(gateway.requests) > seen + 2, what="more pushes")

    assert b"shop_served_total 1.0" in gateway.requests[-1][1]
    assert not [command for command, _ in gateway.requests if command == "DELETE"]
