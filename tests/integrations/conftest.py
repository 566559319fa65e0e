"""A gunicorn server for each test, on free ports, with its log; it ends with the test."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]

APPLICATION = """
import os, time
from mpmetrics import Counter, Gauge, Histogram

HITS = Counter("hits", "Requests served.", ["path"])
TOOK = Histogram("took_seconds", "Time a request took.", buckets=(0.1, 1))
UP = Gauge("worker_up", "Set by each worker.")

def app(environ, start_response):
    path = environ["PATH_INFO"]
    with TOOK.time():
        UP.set(1)
        HITS.labels(path).inc()
    if path == "/slow":
        time.sleep(0.5)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""


PATIENCE = 60.0
"""Seconds to wait for what takes one or two on a quiet machine: the limit only ends what hangs."""


def wait_for(condition: Callable[[], object], seconds: float = PATIENCE, what: str = "") -> object:
    """What ``condition`` returns once it is true; fails the test after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            result = condition()
        except (OSError, http.client.HTTPException):
            result = None
        if result:
            return result
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds} s in vain for {what or condition}")
        time.sleep(0.02)


@pytest.fixture(name="wait_for")
def wait_for_fixture() -> Callable[..., object]:
    """The function ``wait_for``, for tests of other servers."""
    return wait_for


class Server:
    """gunicorn on ``port`` with the endpoint on ``metrics_port``, in the directory ``home`` of its own."""

    def __init__(
        self,
        home: Path,
        port: int,
        metrics_port: int,
        *arguments: str,
        config: str | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        self.port, self.metrics_port = port, metrics_port
        self.home = home
        self.log = home / "log"
        (home / "shopapp.py").write_text(APPLICATION)
        chosen = "python:gunicorn_conf"
        if config is not None:
            (home / "conf.py").write_text(config)
            chosen = str(home / "conf.py")
        environ = {name: value for name, value in os.environ.items() if not name.startswith("MPMETRICS_")}
        environ |= {
            "PYTHONPATH": f"{ROOT}{os.pathsep}{home}",
            "MPMETRICS_BIND": f"127.0.0.1:{self.metrics_port}",
            "MPMETRICS_DIR": str(home / "store"),
        }
        environ |= env or {}
        self.environ = {name: value for name, value in environ.items() if value}
        # The script, not ``-m gunicorn``, which cannot start itself again on SIGUSR2.
        command = [str(Path(sys.executable).with_name("gunicorn")), "-c", chosen, "-b", f"127.0.0.1:{self.port}"]
        # A worker ignores a SIGTERM that arrives while it boots; gunicorn then waits this long.
        command += ["--graceful-timeout", "5", "--no-control-socket"]
        self.command = [*command, *arguments, "shopapp:app"]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Server:
        """Start it and wait until the application and the endpoint answer."""
        self.launch()
        self.wait()
        return self

    def launch(self) -> None:
        """Start it, without waiting."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=self.home, env=self.environ, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self) -> None:
        """Wait until the application and the endpoint answer."""
        self.wait_for(lambda: self.get("/ready"), what="the application")
        self.wait_for(self.scrape, what="the endpoint")

    @property
    def pid(self) -> int:
        """Return the master's process id."""
        assert self.process is not None
        return self.process.pid

    def fetch(self, port: int, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        """Return status and body of a request on a new connection."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE / 2)
        try:
            connection.request("GET", path, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def get(self, path: str) -> bytes:
        """Return the application's answer."""
        status, body = self.fetch(self.port, path)
        assert status == 200
        return body

    def scrape(self) -> str:
        """Return the endpoint's answer."""
        status, body = self.fetch(self.metrics_port, "/metrics")
        assert status == 200
        return body.decode()

    def value(self, series: str, text: str | None = None) -> float:
        """Return the value of a series in ``text`` or in a new scrape; 0 if it is absent."""
        found = re.search(rf"^{re.escape(series)} (\S+)$", text or self.scrape(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    def wait_for(self, condition: Callable[[], object], seconds: float = PATIENCE, what: str = "") -> object:
        """Return what ``condition`` returns once that is true; after ``seconds``, fail the test and show the log."""
        try:
            return wait_for(condition, seconds, what)
        except pytest.fail.Exception as failure:
            pytest.fail(f"{failure}\n{self.log.read_text()}")

    def children(self, pid: int | None = None) -> list[int]:
        """Return the processes whose parent is the master, or ``pid``, without zombies."""
        parent = pid or self.pid
        found = []
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found.append(int(child))
        return found

    def collector(self) -> int | None:
        """Return the process that listens at the metrics port."""
        inodes = set()
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == self.metrics_port:
                inodes.add(f"socket:[{fields[9]}]")
        for pid in self.children():
            with contextlib.suppress(OSError):
                for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                    with contextlib.suppress(OSError):
                        if str(descriptor.readlink()) in inodes:
                            return pid
        return None

    def workers(self) -> list[int]:
        """Return the workers' process ids."""
        return [pid for pid in self.children() if pid != self.collector()]

    def signal(self, number: int) -> None:
        """Send a signal to the master."""
        os.kill(self.pid, number)

    def stop(self) -> int:
        """End it with SIGTERM; return its exit status."""
        assert self.process is not None
        self.signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def kill_everything(self) -> None:
        """Kill the processes that are left of it."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(PATIENCE)


@pytest.fixture
def port(free_port: Callable[[], int]) -> int:
    """Return a port at which no process listens."""
    return free_port()


@pytest.fixture
def serve(free_port: Callable[[], int]) -> Iterator[Callable[..., Server]]:
    """Make servers, which end with the test."""
    servers: list[Server] = []
    homes: list[Path] = []

    def make(*arguments: str, **options: object) -> Server:
        home = Path(tempfile.mkdtemp(prefix="mpmetrics-test-", dir="/dev/shm"))
        home.chmod(0o755)
        homes.append(home)
        servers.append(Server(home, free_port(), free_port(), *arguments, **options))  # type: ignore[arg-type]
        return servers[-1]

    yield make
    for server in servers:
        server.kill_everything()
    for home in homes:
        shutil.rmtree(home, ignore_errors=True)
