"""gunicorn with the endpoint, from outside: as a user, an operator and a scraper see it."""

from __future__ import annotations

import contextlib
import http.client
import os
import pwd
import random
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Callable

    Serve = Callable[..., Any]

CLASSES = {
    "sync": ["--worker-class", "sync"],
    "gthread": ["--worker-class", "gthread", "--threads", "4"],
    "sync-preload": ["--worker-class", "sync", "--preload"],
    "gthread-preload": ["--worker-class", "gthread", "--threads", "4", "--preload"],
}


@pytest.mark.parametrize("arguments", CLASSES.values(), ids=CLASSES)
def test_one_line_gives_one_exact_endpoint(serve: Serve, arguments: list[str]) -> None:
    """With only ``-c python:gunicorn_conf``, each scrape shows the sum over all workers, under every worker class."""
    server = serve("-w", "4", *arguments).start()
    with ThreadPoolExecutor(8) as pool:
        workers = set(pool.map(server.get, ["/slow"] * 8 + ["/page"] * 200))
    text = server.scrape()
    assert len(workers) > 1
    assert server.value('hits_total{path="/page"}', text) == 200
    assert server.value("took_seconds_count", text) == 208 + server.value('hits_total{path="/ready"}', text)
    assert len(workers) <= text.count("worker_up{worker=") <= 4
    assert server.stop() == 0


def test_endpoint_speaks_openmetrics_and_tells_its_health(serve: Serve) -> None:
    """The endpoint negotiates OpenMetrics, answers ``/-/healthy``, and links to the metrics."""
    server = serve("-w", "2").start()
    status, body = server.fetch(server.metrics_port, "/metrics", {"Accept": "application/openmetrics-text"})
    assert status == 200
    assert "hits" in {family.name for family in text_string_to_metric_families(body.decode())}
    assert server.fetch(server.metrics_port, "/-/healthy") == (200, b"OK\n")
    assert server.fetch(server.metrics_port, "/else") == (404, b"not found; the metrics are at /metrics\n")


def test_unix_socket_in_the_store(serve: Serve) -> None:
    """The endpoint also listens at a unix socket in the epoch, which only its owner can use."""
    server = serve("-w", "2").start()
    (path,) = (server.home / "store").glob("epoch-*/metrics.sock")
    assert oct(path.stat().st_mode & 0o777) == "0o600"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: store\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert b"hits_total" in answer


class Load:
    """Sends requests on threads, and counts their results."""

    def __init__(self, server: Any, threads: int) -> None:
        self.answered = self.cut = 0
        self._server = server
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                status, _ = self._server.fetch(self._server.port, "/load")
            except (OSError, http.client.HTTPException):
                status = 0
            with self._lock:
                self.answered += status == 200
                self.cut += status != 200


class Killer:
    """Kills a random worker ten times a second."""

    def __init__(self, server: Any) -> None:
        self.kills = 0
        self._server = server
        self._spared = server.collector()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            workers = [pid for pid in self._server.children() if pid != self._spared]
            if workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(random.choice(workers), signal.SIGKILL)
                    self.kills += 1


EPOCH = {"lock", "lease", "server", "shared", "removals", "retired", "metrics.sock"} | {
    f"{name}.lock" for name in ("collector", "fold", "removals")
}
"""The files of a store with one epoch, without its slabs."""


@pytest.mark.timeout(120)
def test_exact_while_workers_are_killed(serve: Serve) -> None:
    """Workers killed ten times a second under load lose only the interrupted requests; no scrape fails or goes back."""
    server = serve("-w", "4").start()
    series = 'hits_total{path="/load"}'
    scrapes = []
    with Load(server, 4) as load, Killer(server) as killer:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            scrapes.append(server.value(series))
    total = server.value(series)
    assert killer.kills > 50
    assert load.answered > 100
    assert scrapes == sorted(scrapes)
    assert scrapes[-1] <= total
    assert load.answered <= total <= load.answered + load.cut
    files = [path.name for path in (server.home / "store").rglob("*") if not path.is_dir()]
    slabs = [name for name in files if name.startswith(("slab-", "idle-", "dead-", "new-slab-"))]
    assert len(slabs) <= len(server.children()) + 1
    assert set(files) - set(slabs) <= EPOCH


def test_recycled_workers_lose_nothing(serve: Serve) -> None:
    """While ``max_requests`` replaces workers all the time, the total stays exact and the files few."""
    server = serve("-w", "2", "--max-requests", "5").start()
    for _ in range(100):
        server.wait_for(lambda: server.get("/page"))
    assert server.value('hits_total{path="/page"}') == 100
    server.wait_for(lambda: server.value('mpmetrics_processes{state="dead"}') == 0)
    assert server.value("mpmetrics_folds_total") >= 10


def test_reload_keeps_totals_and_endpoint(serve: Serve) -> None:
    """After SIGHUP, totals continue, and the endpoint answers again."""
    server = serve("-w", "2").start()
    for _ in range(10):
        server.get("/page")
    before = set(server.workers())
    server.signal(signal.SIGHUP)
    server.wait_for(lambda: len(server.workers()) == 2 and not before & set(server.workers()))
    server.wait_for(server.scrape)
    for _ in range(10):
        server.get("/page")
    assert server.value('hits_total{path="/page"}') == 20
    assert server.stop() == 0


def test_more_and_fewer_workers(serve: Serve) -> None:
    """SIGTTIN and SIGTTOU change the number of live processes in a scrape; totals stay."""
    server = serve("-w", "1").start()
    server.get("/page")
    server.signal(signal.SIGTTIN)
    server.wait_for(lambda: len(server.workers()) == 2)

    def all_have_counted() -> bool:
        with ThreadPoolExecutor(2) as threads:  # one worker cannot answer both
            list(threads.map(server.get, ["/slow"] * 2))
        return server.value('mpmetrics_processes{state="live"}') == 2

    server.wait_for(all_have_counted)
    total = server.value('hits_total{path="/page"}')
    server.signal(signal.SIGTTOU)
    server.wait_for(lambda: server.value('mpmetrics_processes{state="live"}') == 1)
    assert server.value('hits_total{path="/page"}') == total


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT, signal.SIGINT])
def test_end_frees_port_and_store(serve: Serve, number: int, tmp_path: Path) -> None:
    """When the server ends, the endpoint's port is free, and a default store is removed."""
    server = serve("-w", "2", env={"MPMETRICS_DIR": "", "XDG_RUNTIME_DIR": str(tmp_path)}).start()
    store = store_of(server)
    assert store.is_dir()
    server.signal(number)
    assert server.process.wait(20) == 0
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", server.metrics_port))
    assert not store.exists()


def store_of(server: Any) -> Path:
    """Return the default store of a running server, from the maps of its workers."""
    for pid in server.workers():
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            if "/epoch-" in line and "mpmetrics-" in line:
                return Path(line.split(maxsplit=5)[5]).parents[1]
    raise AssertionError("no worker has a store")


def test_killed_collector_comes_back(serve: Serve) -> None:
    """A killed collector is replaced at once, and its successor shows the same totals."""
    server = serve("-w", "2").start()
    for _ in range(10):
        server.get("/page")
    for _ in range(2):
        first = server.collector()
        os.kill(first, signal.SIGKILL)
        server.wait_for(lambda: server.collector() not in (None, first), 5.0)  # noqa: B023 (called at once)
        server.wait_for(server.scrape)
        assert server.value('hits_total{path="/page"}') == 10


def test_stopped_collector_is_replaced(serve: Serve) -> None:
    """A collector that hangs (here: it is stopped) is killed and replaced; requests are served meanwhile."""
    server = serve("-w", "2").start()
    first = server.collector()
    os.kill(first, signal.SIGSTOP)
    server.get("/page")
    server.wait_for(lambda: server.collector() not in (None, first))
    server.wait_for(server.scrape)
    assert server.value('hits_total{path="/page"}') == 1


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_collector_goes_with_its_master(serve: Serve, *, stopped: bool) -> None:
    """When the master is killed, the collector ends and its port is free within 2 s, even if it hangs."""
    server = serve("-w", "2").start()
    if stopped:
        os.kill(server.collector(), signal.SIGSTOP)
    os.kill(server.pid, signal.SIGKILL)
    server.process.wait(5)

    def is_free() -> bool:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", server.metrics_port))
        return True

    server.wait_for(is_free, 2.0, "the endpoint's port")


def test_store_of_a_killed_server_is_cleaned_up(serve: Serve) -> None:
    """The next start removes the default store of a killed server, but never that of a living one."""
    environ = {"MPMETRICS_DIR": ""}
    killed, living = serve("-w", "1", env=environ).start(), serve("-w", "1", env=environ).start()
    gone, kept = store_of(killed), store_of(living)
    killed.kill_everything()
    assert gone.is_dir()
    following = serve("-w", "1", env=environ).start()
    assert not gone.exists()
    assert kept.is_dir()
    living.get("/page")
    assert living.value('hits_total{path="/page"}') == 1
    assert following.value('hits_total{path="/page"}') == 0


def test_restart_in_one_directory_begins_anew(serve: Serve) -> None:
    """A restart in the same MPMETRICS_DIR inherits no values, after a clean end and after a kill."""
    server = serve("-w", "2").start()
    server.get("/page")
    server.stop()
    server.start()
    assert server.value('hits_total{path="/page"}') == 0
    server.get("/page")
    server.kill_everything()
    server.start()
    assert server.value('hits_total{path="/page"}') == 0
    assert len(list((server.home / "store").glob("epoch-*"))) == 1


@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["lazy", "preload"])
def test_check_config_leaves_nothing_behind(serve: Serve, preload: list[str], tmp_path: Path) -> None:
    """``--check-config`` imports the application and leaves no store, neither a default one nor a given one."""
    before = set(os.listdir("/dev/shm"))
    for directory in ("", str(tmp_path / "store")):
        server = serve("--check-config", *preload, env={"MPMETRICS_DIR": directory})
        server.launch()
        assert server.process.wait(20) == 0, server.log.read_text()
        assert server.log.read_text() == ""
    assert not (tmp_path / "store").exists()
    assert not {name for name in set(os.listdir("/dev/shm")) - before if name.startswith("mpmetrics-0-")}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run workers as another user")
@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["lazy", "preload"])
def test_workers_of_another_user(serve: Serve, preload: list[str]) -> None:
    """With a root master and workers of another user, the store and the collector belong to that user.

    Only the slab of a master that has loaded the application belongs to root, and the collector can read it.
    """
    user = pwd.getpwnam("nobody")
    server = serve("-w", "2", "-u", "nobody", "-g", "nogroup", *preload).start()
    for _ in range(10):
        server.get("/page")
    assert server.value('hits_total{path="/page"}') == 10
    assert Path(f"/proc/{server.collector()}").stat().st_uid == user.pw_uid
    store = server.home / "store"
    own = [path for path in store.rglob("*") if path.lstat().st_uid == 0]
    assert [path.stat().st_mode & 0o777 for path in own if path.name.startswith(("slab-", "idle-"))] == [0o644] * len(
        own
    )
    assert len(own) == bool(preload)
    assert {path.lstat().st_uid for path in {store, *store.rglob("*")} - set(own)} == {user.pw_uid}
    assert {path.stat().st_mode & 0o777 for path in set(store.rglob("slab-*")) - set(own)} == {0o600}
    assert "rror" not in server.log.read_text()
    assert server.stop() == 0


def test_port_in_use_is_logged_and_retried(serve: Serve) -> None:
    """If the endpoint's port is in use, one log line names it, the server runs, and the endpoint opens later."""
    server = serve("-w", "1")
    with socket.socket() as occupant:
        occupant.bind(("127.0.0.1", server.metrics_port))
        occupant.listen()
        server.launch()
        server.wait_for(lambda: server.get("/page"))
        server.wait_for(lambda: f"127.0.0.1:{server.metrics_port}: Address already in use" in server.log.read_text())
        time.sleep(2.2)
        assert server.log.read_text().count("Address already in use") == 1
    server.wait_for(lambda: server.value('hits_total{path="/page"}') == 1)


def test_store_that_cannot_be_made(serve: Serve, tmp_path: Path) -> None:
    """If the store is unusable, one log line says so, the server runs, and a scrape has store_up 0."""
    blocker = tmp_path / "file"
    blocker.write_text("")
    server = serve("-w", "2", env={"MPMETRICS_DIR": str(blocker)}).start()
    server.get("/page")
    text = server.scrape()
    assert server.value("mpmetrics_store_up", text) == 0
    assert "hits_total{" not in text
    lines = [line for line in server.log.read_text().splitlines() if str(blocker) in line]
    assert len(lines) == 1
    assert "choose another MPMETRICS_DIR" in lines[0]


HOOKS = """
calls = __file__ + ".calls"

def note(name):
    with open(calls, "a") as file:
        file.write(name + "\\\\n")

def on_starting(server): note("on_starting")
def when_ready(server): note("when_ready")
def post_fork(server, worker): note("post_fork")
def on_exit(server): note("on_exit")

workers = 2
from mpmetrics.integrations.gunicorn import install
install(globals())
""".replace("\\\\n", "\\n")


def test_hooks_of_the_configuration_are_called(serve: Serve) -> None:
    """``install(globals())`` keeps the hooks of the configuration; each is called once each time."""
    server = serve(config=HOOKS).start()
    server.get("/page")
    assert server.value('hits_total{path="/page"}') == 1
    assert server.stop() == 0
    calls = (server.home / "conf.py.calls").read_text().split()
    assert sorted(calls) == ["on_exit", "on_starting", "post_fork", "post_fork", "when_ready"]


def test_installing_twice_keeps_the_hooks(serve: Serve) -> None:
    """A second ``install(globals())`` changes nothing: each hook is called once."""
    server = serve(config=HOOKS + "install(globals())\n").start()
    assert server.stop() == 0
    calls = (server.home / "conf.py.calls").read_text().split()
    assert sorted(calls) == ["on_exit", "on_starting", "post_fork", "post_fork", "when_ready"]


def test_hooks_that_replace_ours_are_logged(serve: Serve) -> None:
    """With hooks that replace ours the server runs, and the log says why it has no endpoint."""
    config = "from mpmetrics.integrations.gunicorn import install\ninstall(globals())\n"
    config += "def on_starting(server): pass\ndef when_ready(server): pass\n"
    server = serve(config=config)
    server.launch()
    server.wait_for(lambda: server.get("/page"))
    assert "call install() at the end of the configuration" in server.log.read_text()


def test_bad_address_is_refused(serve: Serve) -> None:
    """An invalid bind address stops gunicorn while it reads its configuration, with a message that names it."""
    config = "from mpmetrics.integrations.gunicorn import install\ninstall(globals(), bind='nonsense')\n"
    server = serve(config=config)
    server.launch()
    assert server.process.wait(20) != 0
    assert "address 'nonsense': expected host:port" in server.log.read_text()


def test_upgrade_goes_on_in_the_same_epoch(serve: Serve, tmp_path: Path) -> None:
    """After SIGUSR2, the new master's workers count in the same epoch; when the old master ends, totals stay."""
    pidfile = tmp_path / "pid.2"
    server = serve("-w", "1", "--pid", str(tmp_path / "pid")).start()
    server.get("/page")
    server.signal(signal.SIGUSR2)
    new = int(server.wait_for(lambda: pidfile.exists() and pidfile.read_text()))
    server.wait_for(lambda: len(server.children(new)) == 2)
    server.signal(signal.SIGTERM)
    server.process.wait(20)
    try:
        server.wait_for(lambda: server.get("/page"))
        server.wait_for(lambda: server.value('hits_total{path="/page"}') >= 2)
        assert len(list((server.home / "store").glob("epoch-*"))) == 1
    finally:
        os.kill(new, signal.SIGTERM)
        server.wait_for(lambda: not Path(f"/proc/{new}").exists() or b"Z" in Path(f"/proc/{new}/stat").read_bytes())


def test_output_passes_promtool(serve: Serve) -> None:
    """The endpoint's output passes promtool."""
    server = serve("-w", "2").start()
    server.get("/page")
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=server.scrape(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
