"""SIGUSR2: one master after the other at the same address, and at each moment a process listens there."""

from __future__ import annotations

import os
import signal
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from mpmetrics.http.address import parse
from mpmetrics.integrations.listeners import Listeners

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Serve = Callable[..., Any]
    Upgrade = Callable[[Any], int]

GET = b"GET /metrics HTTP/1.1\r\nHost: metrics\r\nConnection: close\r\n\r\n"


class Scraper:
    """Connects again and again, and counts how often no process listened."""

    def __init__(self, server: Any, path: Path | None) -> None:
        self.scrapes = self.answers = self.refused = 0
        self._where: Any = str(path) if path else ("127.0.0.1", server.metrics_port)
        self._family = socket.AF_UNIX if path else socket.AF_INET
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.scrapes += 1
            with socket.socket(self._family) as client:
                client.settimeout(20)
                try:
                    client.connect(self._where)
                except (ConnectionRefusedError, FileNotFoundError):
                    self.refused += 1
                    continue
                try:
                    client.sendall(GET)
                    self.answers += client.recv(12) == b"HTTP/1.1 200"
                except ConnectionError:  # on a busy machine, the request may be too late for a collector that ends
                    continue


@pytest.fixture
def upgrade(tmp_path: Path) -> Iterator[Upgrade]:
    """Start the next master beside a server's; return its process id once its workers and its collector run."""
    started: list[tuple[Any, int]] = []

    def start(server: Any) -> int:
        pidfile = tmp_path / "pid.2"
        server.signal(signal.SIGUSR2)
        new = int(server.wait_for(lambda: pidfile.exists() and pidfile.read_text()))
        started.append((server, new))
        server.wait_for(lambda: len(server.children(new)) == 2)
        return new

    yield start
    for server, new in started:
        if is_running(new):
            os.kill(new, signal.SIGTERM)
            server.wait_for(lambda: not is_running(new))  # noqa: B023 (called at once)


def is_running(pid: int) -> bool:
    """Return whether a process runs, which need not be a child of this one."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(params=["tcp", "unix"])
def bound(request: pytest.FixtureRequest, serve: Serve, tmp_path: Path) -> tuple[Any, Path | None]:
    """A server, and the path of its endpoint if that is a unix socket."""
    server = serve("-w", "1", "--pid", str(tmp_path / "pid"))
    path = tmp_path / "metrics.sock" if request.param == "unix" else None
    if path:
        server.environ["MPMETRICS_BIND"] += f",unix:{path}"
    return server.start(), path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_no_scrape_is_refused(bound: tuple[Any, Path | None], upgrade: Upgrade, number: int) -> None:
    """While the old master ends, a process listens all the time, and each scrape has all counts."""
    server, path = bound
    server.get("/page")
    with Scraper(server, path) as scraper:
        new = upgrade(server)
        server.signal(number)
        assert 0 == server.process.wait(60)
        seen = scraper.answers
        server.wait_for(lambda: scraper.answers > seen + 5)
    assert 0 == scraper.refused
    server.get("/page")
    assert 2 == server.value('hits_total{path="/page"}')
    os.kill(new, signal.SIGTERM)
    server.wait_for(lambda: not is_running(new))
    assert path is None or not path.exists()
    with pytest.raises(ConnectionRefusedError):
        server.scrape()


def test_no_scrape_is_refused_when_the_new_one_goes(bound: tuple[Any, Path | None], upgrade: Upgrade) -> None:
    """If the new master ends instead, the old one serves on, and no scrape is refused."""
    server, path = bound
    with Scraper(server, path) as scraper:
        new = upgrade(server)
        os.kill(new, signal.SIGQUIT)
        server.wait_for(lambda: not is_running(new))
        seen = scraper.answers
        server.wait_for(lambda: scraper.answers > seen + 5)
    assert 0 == scraper.refused
    assert 0 == server.stop()
    assert path is None or not path.exists()


def test_an_address_that_the_new_master_does_not_use_is_closed(
    serve: Serve, upgrade: Upgrade, tmp_path: Path, port: int
) -> None:
    """If the new configuration names another address, the old one is free once the old master has ended."""
    config = "from mpmetrics.integrations.gunicorn import install\ninstall(globals(), bind='127.0.0.1:{}')\n"
    server = serve("-w", "1", "--pid", str(tmp_path / "pid"), config="")
    (server.home / "conf.py").write_text(config.format(server.metrics_port))
    server.start()
    old, server.metrics_port = server.metrics_port, port
    (server.home / "conf.py").write_text(config.format(server.metrics_port))
    upgrade(server)
    assert 0 == server.stop()
    server.wait_for(server.scrape)
    with pytest.raises(ConnectionRefusedError):
        server.fetch(old, "/metrics")


@pytest.mark.parametrize("said", ["", "[]", "{", '{"127.0.0.1:1": -1}', '{"127.0.0.1:1": "x"}'])
def test_an_invalid_handover_is_logged(said: str, caplog: pytest.LogCaptureFixture) -> None:
    """A variable with invalid content does not stop the start: the addresses are opened as at any other start."""
    listeners = Listeners()
    listeners.take_over(said, [parse("127.0.0.1:1")])

    assert "no sockets are taken over" in caplog.text
