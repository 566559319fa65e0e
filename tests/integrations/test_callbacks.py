"""Callbacks under gunicorn run once for the whole server or once in each worker, and never break a scrape."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    Serve = Callable[..., Any]

METRICS = """
import os, time
import mpmetrics
from mpmetrics import Gauge

meter = mpmetrics.get_meter("test")
MODE = os.environ.get("MODE", "")

def note(name):
    with open(os.path.join(os.environ["HOME_OF_TEST"], name), "a") as file:
        file.write(f"{os.getpid()}\\n")

def one(observer):
    note("one")
    observer.observe(1)

def two(observer):
    note("two")
    observer.observe(two_, 2)

def worker(observer):
    note("worker")
    observer.observe(1)

def delta(observer):
    observer.observe(1)
    note("delta")

meter.observable_gauge("one", callback=one)
two_ = meter.observable_gauge("two")
meter.register_callback(two, two_)
meter.observable_up_down_counter("worker", callback=worker, scope="worker")
if MODE == "delta":
    meter.observable_counter("delta", callback=delta, temporality="delta")
if MODE == "worker delta":
    meter.observable_counter("delta", callback=delta, temporality="delta", scope="worker")
if MODE == "raise":
    meter.observable_gauge("bad", callback=lambda _: 1 / 0)
if MODE == "sleep":
    meter.observable_gauge("bad", callback=lambda _: time.sleep(60), timeout=1)
if MODE == "exit":
    armed = os.path.join(os.environ["HOME_OF_TEST"], "armed")
    meter.observable_gauge("bad", callback=lambda _: os._exit(1) if os.path.exists(armed) else None)
meter.observable_gauge("last", callback=lambda observer: observer.observe(3))
"""

APPLICATION = """
import os, time
import metrics
from mpmetrics import Counter, Gauge

HITS = Counter("hits", "Requests served.", ["path"])
Gauge("pid", "Set by a function.").set_function(os.getpid)

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/spin":
        end = time.monotonic() + 4
        while time.monotonic() < end:
            pass
    HITS.labels(path).inc()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""

ASGI = """
import metrics, os
from mpmetrics import Gauge

Gauge("pid", "Set by a function.").set_function(os.getpid)

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""


@pytest.fixture
def serving(serve: Serve) -> Serve:
    """Start a server whose application has callbacks, in ``mode``; ``named``: the configuration names their module."""

    def start(
        *arguments: str,
        mode: str = "",
        named: str = "metrics",
        application: str = APPLICATION,
        config: str | None = None,
    ) -> Any:
        server = serve(*arguments, config=config, env={"MPMETRICS_CALLBACKS": named, "MODE": mode})
        server.environ["HOME_OF_TEST"] = str(server.home)
        (server.home / "metrics.py").write_text(METRICS)
        (server.home / "shopapp.py").write_text(application)
        server.start()
        return server

    return start


def notes(server: Any, name: str) -> list[str]:
    """Return the process ids that a callback wrote, a line at each run."""
    path = server.home / name
    return path.read_text().splitlines() if path.exists() else []


def answering(server: Any, number: int) -> None:
    """Wait until ``number`` workers answer the collector."""
    server.wait_for(lambda: server.value('worker{otel_scope_name="test"}') == number, what=f"{number} workers")


def value(name: str, text: str) -> float | None:
    """Return the value of a series of the test's meter; None if it is absent."""
    found = re.search(rf'^{name}{{otel_scope_name="test"}} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else None


@pytest.mark.parametrize("how", ["named", "preloaded", "configured"])
def test_each_once_a_collection(serving: Serve, how: str) -> None:
    """With 4 workers and 50 scrapes at once, host callbacks run once a collection, worker callbacks once a worker."""
    preload = ["--preload"] if how == "preloaded" else []
    # The machine may be busy, so the test waits for each worker.
    arguments = "callbacks=['metrics'], worker_timeout=20" if how == "configured" else "worker_timeout=20"
    config = f"from mpmetrics.integrations.gunicorn import install\ninstall(globals(), {arguments})\n"
    server = serving("-w", "4", *preload, named="metrics" if how == "named" else "", config=config)
    answering(server, 4)

    with ThreadPoolExecutor(50) as threads:
        for _ in range(2):
            texts = list(threads.map(lambda _: server.scrape(), range(50)))
    text = server.scrape()
    collections = server.value("mpmetrics_collections_total", text)

    assert collections == len(notes(server, "one")) == len(notes(server, "two"))
    assert 1 == len(set(notes(server, "one")))
    assert collections < 101
    assert {1.0} == {value("one", each) for each in texts}
    workers = {str(pid) for pid in server.workers()}
    assert 4 == len(workers)
    assert workers.isdisjoint(notes(server, "one"))
    by_worker = [notes(server, "worker").count(pid) for pid in workers]
    ran = server.value('mpmetrics_callback_duration_seconds_count{callback="worker"}', text)
    assert ran == len(notes(server, "worker"))
    # Each worker was asked from its start on, once for each collection.
    assert max(by_worker) <= collections
    before = by_worker
    for _ in range(5):
        server.scrape()
    assert [5] * 4 == [notes(server, "worker").count(pid) - was for pid, was in zip(workers, before, strict=True)]
    assert 'mpmetrics_callback_served{instrument="one",module="metrics"} 0.0' not in text
    assert ["0", "1", "2", "3"] == sorted(re.findall(r'^pid{worker="(\d+)"}', text, re.MULTILINE))
    assert 4.0 == server.value('mpmetrics_processes{state="live"}', text)
    assert "Traceback" not in server.log.read_text()


def test_a_callback_that_raises(serving: Serve) -> None:
    """Each scrape shows the other callbacks' values; the error is counted each time and logged once."""
    server = serving("-w", "2", mode="raise")
    for count in range(1, 4):
        before = server.value("mpmetrics_collections_total")
        text = server.scrape()
        assert (1.0, 2.0, 3.0) == tuple(value(name, text) for name in ("one", "two", "last"))
        assert value("bad", text) is None
        assert server.value('mpmetrics_callback_errors_total{callback="bad"}', text) == before + 1 >= count
    assert 1 == server.log.read_text().count("ZeroDivisionError('division by zero')")


def test_a_callback_that_sleeps(serving: Serve) -> None:
    """A callback that sleeps delays one scrape by its deadline and no later one; each scrape has all other values."""
    server = serving("-w", "2", mode="sleep")
    for _ in range(4):
        start = time.monotonic()
        text = server.scrape()
        assert time.monotonic() - start < 5.0
        assert (1.0, 2.0, 3.0) == tuple(value(name, text) for name in ("one", "two", "last"))
        assert value("bad", text) is None
    assert server.value('mpmetrics_callback_timeouts_total{callback="bad"}', text) >= 4.0


def test_a_scraper_that_cannot_wait(serving: Serve) -> None:
    """A scraper's timeout header shortens the deadline of callbacks."""
    server = serving("-w", "1", mode="sleep", named="")
    # The collector has not imported the module yet; its first scrape is the one below.
    (server.home / "slow.py").write_text(
        "import time, mpmetrics\n"
        "mpmetrics.get_meter('test').observable_gauge('slow', callback=lambda _: time.sleep(50), timeout=40)\n"
    )
    config = server.home / "conf.py"
    config.write_text("from mpmetrics.integrations.gunicorn import install\ninstall(globals(), callbacks=['slow'])\n")
    server.command[server.command.index("-c") + 1] = str(config)
    server.stop()
    server.launch()
    server.wait_for(lambda: server.get("/ready"))
    start = time.monotonic()
    status, _ = server.fetch(server.metrics_port, "/metrics", {"X-Prometheus-Scrape-Timeout-Seconds": "1"})

    assert 200 == status
    assert time.monotonic() - start < 4.0


def scrape_or_not(server: Any) -> str | None:
    """Return a scrape, or None if the connection broke."""
    try:
        return str(server.scrape())
    except (OSError, http.client.HTTPException):
        return None


def test_a_callback_that_ends_the_process(serving: Serve) -> None:
    """The collector is replaced each time; after two deaths in a row the callback is suspended until a reload."""
    server = serving("-w", "2", mode="exit")
    (server.home / "armed").touch()
    for _ in range(2):
        for _ in range(2):
            old = server.collector()
            start = time.monotonic()
            assert scrape_or_not(server) is None
            server.wait_for(lambda old=old: server.collector() not in {None, old})
            assert 200 == server.fetch(server.metrics_port, "/-/healthy")[0]
            assert time.monotonic() - start < 6.0
        text = server.scrape()
        assert (1.0, 2.0, 3.0) == tuple(value(name, text) for name in ("one", "two", "last"))
        assert 1.0 <= server.value('mpmetrics_callback_suspensions_total{callback="bad"}', text)
        log = server.log.read_text()
        old = server.collector()
        server.signal(signal.SIGHUP)
        server.wait_for(lambda old=old: server.collector() not in {None, old})
    assert 2 == log.count("2 times in a row during callback bad")


def test_delta_totals_survive_kills(serving: Serve) -> None:
    """While the collector is killed again and again during scrapes, the total of deltas stays exact."""
    server = serving("-w", "1", mode="delta")
    stop = threading.Event()

    def scrape_on() -> None:
        while not stop.is_set():
            scrape_or_not(server)

    thread = threading.Thread(target=scrape_on)
    thread.start()
    killed = set()
    try:
        for _ in range(8):
            pid = server.wait_for(lambda: server.collector() not in killed and server.collector())
            before = len(notes(server, "delta"))
            server.wait_for(lambda before=before: len(notes(server, "delta")) > before)
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
    finally:
        stop.set()
        thread.join()
    server.wait_for(lambda: scrape_or_not(server))
    total = value("delta_total", server.scrape())

    # If it is killed between an observation and the line in the file, the total has one run more.
    assert len(notes(server, "delta")) <= (total or 0.0) <= len(notes(server, "delta")) + len(killed)
    assert 8 == len(killed)


def test_totals_while_workers_are_killed(serving: Serve) -> None:
    """While workers are killed, what their callbacks observed stays in the sum, which never falls."""
    config = "from mpmetrics.integrations.gunicorn import install\ninstall(globals(), worker_timeout=5)\n"
    server = serving("-w", "4", mode="worker delta", config=config)
    answering(server, 4)
    totals, killed = [], 0
    for _ in range(15):
        with contextlib.suppress(ProcessLookupError):
            os.kill(random.choice(server.wait_for(server.workers)), signal.SIGKILL)
            killed += 1
        # The series is absent while no worker observes it.
        totals += [total for _ in range(3) if (total := value("delta_total", server.scrape())) is not None]
    answering(server, 4)
    last = value("delta_total", server.scrape()) or 0.0

    assert sorted([*totals, last]) == [*totals, last]
    assert len(notes(server, "delta")) <= last <= len(notes(server, "delta")) + killed
    assert len(list((server.home / "store").glob("epoch-*/ask-*"))) == 4


def test_callbacks_that_the_collector_does_not_run_are_reported(serving: Serve) -> None:
    """A callback whose module the collector does not import is named in the scrape, and once in the log."""
    server = serving("-w", "2", named="")
    answering(server, 2)
    for _ in range(3):
        text = server.scrape()
    log = server.log.read_text()

    for instrument in ("one", "two", "last"):
        assert f'mpmetrics_callback_served{{instrument="{instrument}",module="metrics"}} 0.0' in text
        assert value(instrument, text) is None
        assert 1 == log.count(f"the callback of '{instrument}' does not run here")
    assert "MPMETRICS_CALLBACKS=metrics" in log


def test_reload(serving: Serve) -> None:
    """After SIGHUP, the callbacks of the new code run, from the modules that the configuration names now."""
    home = "from mpmetrics.integrations.gunicorn import install\ninstall(globals(), callbacks=[{}])\n"
    server = serving("-w", "2", config=home.format("'metrics'"))
    assert 3.0 == value("last", server.scrape())

    (server.home / "metrics.py").write_text(METRICS.replace("observe(3)", "observe(33)").replace("def two", "def  two"))
    (server.home / "more.py").write_text(
        "import mpmetrics\n"
        "meter = mpmetrics.get_meter('test')\n"
        "meter.observable_gauge('more', callback=lambda observer: observer.observe(7))\n"
    )
    (server.home / "conf.py").write_text(home.format("'metrics', 'more'"))
    server.signal(signal.SIGHUP)
    server.wait_for(lambda: value("last", server.scrape()) == 33.0)
    assert 7.0 == value("more", server.scrape())

    (server.home / "conf.py").write_text(home.format("'more'"))
    (server.home / "shopapp.py").write_text(APPLICATION.replace("import metrics\n", "import more\n"))
    server.signal(signal.SIGHUP)
    server.wait_for(lambda: 'instrument="last"' not in server.scrape())
    text = server.scrape()
    assert value("last", text) is None
    assert 7.0 == value("more", text)
    assert 'mpmetrics_callback_module_up{module="more"} 1.0' in text
    assert 'module="metrics"' not in text


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import nothing_of_that_name", "No module named 'nothing_of_that_name'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import time; time.sleep(60)", ""),
        ("import os; os._exit(1)", "2 times in a row during import broken"),
    ],
)
def test_a_module_that_cannot_be_imported(serving: Serve, code: str, said: str) -> None:
    """The scrape has the callbacks of the other modules, and a self-metric that names the missing module."""
    config = (
        "from mpmetrics.integrations.gunicorn import install\ninstall(globals(), callbacks=['metrics', 'broken'])\n"
        f"open('broken.py', 'w').write({code!r})\n"
    )
    server = serving("-w", "1", config=config)
    text = server.scrape()

    assert 3.0 == value("last", text)
    assert 'mpmetrics_callback_module_up{module="metrics"} 1.0' in text
    assert 'mpmetrics_callback_module_up{module="broken"} 0.0' in text
    assert said in server.log.read_text()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("callbacks=['a b']", "'a b' is not a module's name"),
        ("callbacks=[5]", "callbacks must be names of modules, not 5"),
        ("max_age=-1", "max_age must be a number of seconds, at least 0, not -1"),
        ("worker_timeout=0", "timeout must be a number of seconds above 0, not 0"),
        ("attributes=5", "attributes must be a mapping of names to values, not 5"),
    ],
)
def test_bad_settings(serve: Serve, argument: str, message: str) -> None:
    """A bad setting stops gunicorn's start, and the message names the value."""
    config = f"from mpmetrics.integrations.gunicorn import install\ninstall(globals(), {argument})\n"
    server = serve(config=config)
    server.launch()

    assert 0 != server.process.wait(20)
    assert message in server.log.read_text()


CLASSES = ["sync", "gthread", "gevent", "uvicorn.workers.UvicornWorker", "asgi"]


@pytest.mark.parametrize("worker_class", CLASSES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_worker_classes(serving: Serve, worker_class: str) -> None:
    """Workers of each class run their callbacks in their own process, also while they serve requests."""
    if worker_class in {"gevent", "uvicorn.workers.UvicornWorker"}:
        pytest.importorskip(worker_class.partition(".")[0])
    if worker_class == "asgi":
        pytest.importorskip("gunicorn.workers.gasgi")
    asynchronous = worker_class in CLASSES[3:]
    for preload in [[], ["--preload"]]:
        server = serving("-w", "2", "-k", worker_class, *preload, application=ASGI if asynchronous else APPLICATION)
        answering(server, 2)
        text = server.scrape()
        pids = {float(pid) for pid in re.findall(r'^pid{worker="[01]"} (\S+)$', text, re.MULTILINE)}

        assert {float(pid) for pid in server.workers()} == pids
        assert (1.0, 2.0, 3.0) == tuple(value(name, text) for name in ("one", "two", "last"))
        assert 0 == server.stop()


def test_a_worker_that_does_not_answer(serving: Serve) -> None:
    """A stopped worker is named late, keeps its values for one scrape, and delays it by worker_timeout at most."""
    server = serving("-w", "2")
    answering(server, 2)
    pid = server.workers()[0]
    os.kill(pid, signal.SIGSTOP)
    try:
        start = time.monotonic()
        texts = [server.scrape() for _ in range(4)]
        took = time.monotonic() - start
    finally:
        os.kill(pid, signal.SIGCONT)

    assert [2.0, 1.0, 1.0, 1.0] == [value("worker", text) for text in texts]
    assert all(re.search(r'^mpmetrics_late_workers{worker="[01]"} 1.0$', text, re.MULTILINE) for text in texts)
    assert took < 4.0
    answering(server, 2)
    assert "mpmetrics_late_workers" not in server.scrape()


def test_a_busy_worker(serving: Serve) -> None:
    """A sync worker that computes all the time does not keep the other workers' values from a scrape."""
    server = serving("-w", "2")
    answering(server, 2)
    with ThreadPoolExecutor(1) as thread:
        busy = thread.submit(server.get, "/spin")
        start = time.monotonic()
        texts = [server.scrape() for _ in range(5)]
        took = time.monotonic() - start
        busy.result()

    assert all((value("worker", text) or 0.0) >= 1.0 for text in texts)
    assert took < 5.0


def test_a_hook_below(serving: Serve) -> None:
    """A post_worker_init below install() is called, and workers answer collectors nevertheless."""
    config = (
        "from mpmetrics.integrations.gunicorn import install\ninstall(globals())\n"
        "def post_worker_init(worker):\n    open('theirs', 'w').close()\n"
    )
    server = serving("-w", "1", config=config)
    answering(server, 1)

    assert (server.home / "theirs").exists()


def test_process_metrics(serving: Serve) -> None:
    """With process_metrics, each worker shows its memory, and the CPU time of all workers outlives them."""
    config = "from mpmetrics.integrations.gunicorn import install\ninstall(globals(), process_metrics=True)\n"
    server = serving("-w", "2", config=config)
    answering(server, 2)
    text = server.scrape()
    scope = 'otel_scope_name="mpmetrics.instrumentation.process"'
    assert 2 == len(re.findall(rf'^process_resident_memory_bytes{{{scope},worker="[01]"}} \S+$', text, re.MULTILINE))
    before = server.value(f"process_cpu_seconds_total{{{scope}}}", text)

    os.kill(server.workers()[0], signal.SIGKILL)
    answering(server, 2)
    assert 0.0 < before <= server.value(f"process_cpu_seconds_total{{{scope}}}")
