"""Worker callbacks: each worker runs them at scrape time, values merge by mode, and no scrape waits too long."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mpmetrics import Collector, Counter, Gauge, Provider
from mpmetrics.instruments.metric import Metric
from mpmetrics.names.family import Family
from mpmetrics.serving.worker_socket import list_workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Seen = Callable[[Any], dict[str, float]]
    Start = Callable[[Callable[[], object]], Any]

LATE = "mpmetrics_late_workers"


def epoch(provider: Provider) -> str:
    """Return the directory of the provider's epoch."""
    assert provider.epoch is not None
    return provider.epoch.path


def wait_for_workers(provider: Provider, number: int) -> None:
    """Wait until ``number`` processes listen for collectors."""
    deadline = time.monotonic() + 20
    while len(list_workers(epoch(provider))) != number:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def stop(pid: int) -> None:
    """Stop a process, and wait until it is stopped."""
    os.kill(pid, signal.SIGSTOP)
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.01)


def late(shown: dict[str, float]) -> set[str]:
    """Return the series of the workers that a scrape names as late."""
    return {name for name in shown if name.startswith(LATE)}


def observing(
    provider: Provider, value: float, runs: str = "", during: Callable[[], object] | None = None
) -> Callable[[], object]:
    """Return what a worker does: register callbacks that observe ``value``, and add a line to a file at each run."""

    def work() -> None:
        def observe(observer: Any) -> None:
            if during is not None:
                during()
            observer.observe(value)

        def noted(observer: Any) -> None:
            if runs:
                with open(runs, "a") as file:  # noqa: PTH123 (appends whole lines)
                    file.write(f"{os.getpid()}\n")
            observe(observer)

        meter = provider.meter("test")
        meter.observable_counter("c", callback=noted, scope="worker")
        meter.observable_up_down_counter("u", callback=observe, scope="worker")
        meter.observable_counter("d", callback=observe, scope="worker", temporality="delta")
        for mode in ("liveall", "livemax", "min", "sum", "mostrecent"):
            meter.observable_gauge(f"g.{mode}", callback=observe, scope="worker", multiprocess_mode=mode)  # type: ignore[arg-type]
        wait = time.monotonic() + 20
        while not any(name.identity == own(provider) for name in list_workers(epoch(provider))):
            assert time.monotonic() < wait
            time.sleep(0.005)

    return work


def own(provider: Provider) -> str:
    """Return the identity of this process's slab."""
    name = provider.memory.slab_name
    return "" if name is None else name.identity


@pytest.fixture
def collector(shared: Provider) -> Iterator[Collector]:
    """A collector of the store alone, with a long worker_timeout, since the machine may be busy."""
    assert shared.directory is not None
    made = Collector(shared.directory, worker_timeout=5)
    yield made
    made.close()


def test_merged_by_mode(shared: Provider, collector: Collector, child: Start, seen: Seen, tmp_path: Path) -> None:
    """Each worker runs each callback once a collection; values merge by mode; the totals of dead workers stay."""
    notes = tmp_path / "runs"
    children = [child(observing(shared, value, str(notes))) for value in (1, 2, 4)]
    first = seen(collector)

    assert {
        "c_total": 7.0,
        "u": 7.0,
        "d_total": 7.0,
        "g_livemax": 4.0,
        "g_min": 1.0,
        "g_sum": 7.0,
        'g_liveall{worker="0"}': 1.0,
        'g_liveall{worker="1"}': 2.0,
        'g_liveall{worker="2"}': 4.0,
        "g_mostrecent": first["g_mostrecent"],
    } == first
    assert first["g_mostrecent"] in {1.0, 2.0, 4.0}

    seen(collector)
    assert {str(one.pid): 2 for one in children} == {
        pid: notes.read_text().splitlines().count(pid) for pid in set(notes.read_text().splitlines())
    }

    children[2].kill()
    for _ in range(2):  # before and after the fold
        after = seen(collector)
        assert (7.0, 3.0, 2.0, 1.0, 7.0) == (
            after["c_total"],
            after["u"],
            after["g_livemax"],
            after["g_min"],
            after["g_sum"],
        )
    assert 7.0 * 2 + 3.0 * 2 == after["d_total"]
    assert 2 == len(list_workers(epoch(shared)))
    assert not late(after)


def test_a_stopped_worker(shared: Provider, child: Start, scrape: Seen, tmp_path: Path) -> None:
    """A stopped worker keeps its last values for one scrape and is named late; then its gauges are gone; totals stay.

    After it continues, it does not run its callbacks for collectors that have hung up.
    """
    notes = tmp_path / "runs"
    stopped = child(observing(shared, 1, str(notes)))
    child(observing(shared, 2))
    assert shared.directory is not None
    patient, collector = Collector(shared.directory, worker_timeout=5), Collector(shared.directory)
    scrape(patient)
    scrape(collector)
    stop(stopped.pid)
    try:
        before = len(notes.read_text().splitlines())
        start = time.monotonic()
        missed_once, missed_twice = scrape(collector), scrape(collector)
        took = time.monotonic() - start
    finally:
        os.kill(stopped.pid, signal.SIGCONT)
    back = scrape(patient)

    name = '{worker="0"}'
    assert {f'{LATE}{{worker="0"}}'} == late(missed_once) == late(missed_twice)
    assert (3.0, 3.0, 1.0) == (missed_once["c_total"], missed_once["u"], missed_once[f"g_liveall{name}"])
    assert (3.0, 2.0, 2.0) == (missed_twice["c_total"], missed_twice["u"], missed_twice["g_sum"])
    assert f"g_liveall{name}" not in missed_twice
    assert took < 5.0
    assert (3.0, 3.0, 1.0) == (back["c_total"], back["u"], back[f"g_liveall{name}"])
    assert not late(back)
    assert before + 1 == len(notes.read_text().splitlines())


def test_a_worker_that_never_answered(shared: Provider, child: Start, scrape: Seen) -> None:
    """A new collector shows only the totals of a worker that has been stopped since before its first scrape."""
    stopped = child(observing(shared, 1))
    child(observing(shared, 2))
    assert shared.directory is not None
    scrape(Collector(shared.directory, worker_timeout=5))
    stop(stopped.pid)
    try:
        shown = scrape(Collector(shared.directory, worker_timeout=1))
    finally:
        os.kill(stopped.pid, signal.SIGCONT)

    assert (3.0, 2.0, 2.0) == (shown["c_total"], shown["u"], shown["g_livemax"])
    assert 'g_liveall{worker="0"}' not in shown


def test_a_hung_callback(shared: Provider, child: Start, scrape: Seen) -> None:
    """A hung callback delays one scrape by its deadline; its series show once more, then not; others are fresh."""

    def work() -> None:
        runs = []

        def hangs(observer: Any) -> None:
            runs.append(1)
            observer.observe(1)
            if len(runs) > 1:
                time.sleep(60)

        meter = shared.meter("test")
        meter.observable_gauge("hangs", callback=hangs, scope="worker", multiprocess_mode="livesum")
        meter.observable_gauge(
            "good", callback=lambda observer: observer.observe(len(runs)), scope="worker", multiprocess_mode="livesum"
        )
        wait_for_workers(shared, 1)

    child(work)
    assert shared.directory is not None
    collector = Collector(shared.directory, worker_timeout=2)
    shown = [scrape(collector) for _ in range(4)]

    assert [1.0, 1.0, None, None] == [each.get("hangs") for each in shown]
    assert [1.0, 2.0, 2.0, 2.0] == [each["good"] for each in shown]
    assert 3.0 == shown[-1]['mpmetrics_callback_timeouts_total{callback="hangs"}']
    assert [set()] * 4 == [late(each) for each in shown]


def test_a_gauge_that_is_no_longer_observed(shared: Provider, collector: Collector, child: Start, seen: Seen) -> None:
    """A gauge that its worker did not observe in this collection is not shown.

    A counter that falls is left out once, and then continues from its total.
    """

    def work() -> None:
        runs = []

        def every_other_time(observer: Any) -> None:
            runs.append(1)
            if len(runs) % 2:
                observer.observe(5)

        meter = shared.meter("test")
        meter.observable_gauge("g", callback=every_other_time, scope="worker", multiprocess_mode="livesum")
        runs_of_counter = []

        def falls(observer: Any) -> None:
            runs_of_counter.append(1)
            observer.observe(10 if len(runs_of_counter) != 2 else 9)

        meter.observable_counter("c", callback=falls, scope="worker")
        wait_for_workers(shared, 1)

    child(work)

    assert [{"g": 5.0, "c_total": 10.0}, {}, {"g": 5.0, "c_total": 11.0}] == [seen(collector) for _ in range(3)]


def test_children_of_a_worker(shared: Provider, collector: Collector, child: Start, seen: Seen) -> None:
    """A child of a worker answers collectors itself, and does not keep its parent's socket open."""
    shared.meter("test").observable_gauge(
        "pid", callback=lambda observer: observer.observe(os.getpid()), scope="worker"
    )
    wait_for_workers(shared, 1)
    one = child(lambda: None)
    wait_for_workers(shared, 2)

    assert {float(os.getpid()), float(one.pid)} == set(seen(collector).values())
    assert {float(os.getpid()), float(one.pid)} == set(seen(shared).values())

    path = epoch(shared)
    shared.shutdown()
    assert 1 == len(list_workers(path))
    assert {float(one.pid)} == set(seen(collector).values())


def test_set_function_in_workers(shared: Provider, collector: Collector, child: Start, scrape: Seen) -> None:
    """The results of a gauge's function merge over processes by its mode; a result that is no number is dropped."""
    gauges = {
        mode: Gauge(f"g_{mode}", "", ["k"], provider=shared, multiprocess_mode=mode)  # type: ignore[arg-type]
        for mode in ("livesum", "max", "livemostrecent")
    }
    bad = Gauge("bad", "", provider=shared, multiprocess_mode="livemax")

    def worker(value: float) -> Callable[[], object]:
        def work() -> None:
            for gauge in gauges.values():
                gauge.labels("a").set_function(lambda: value)
            bad.set_function(lambda: "5")  # type: ignore[arg-type, return-value]
            expected = own(shared)
            while not expected or expected not in {name.identity for name in list_workers(epoch(shared))}:
                time.sleep(0.005)
                expected = own(shared)

        return work

    first, _ = child(worker(1)), child(worker(2))
    shown = scrape(collector)

    assert (3.0, 2.0) == (shown['g_livesum{k="a"}'], shown['g_max{k="a"}'])
    assert shown['g_livemostrecent{k="a"}'] in {1.0, 2.0}
    assert "bad" not in shown
    assert 2.0 == shown['mpmetrics_callback_dropped_observations_total{callback="bad"}']

    first.kill()
    assert 2.0 == scrape(collector)['g_livesum{k="a"}']


def test_a_long_path(child: Start, seen: Seen) -> None:
    """Worker callbacks run in a store whose path is too long for a socket's address."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as base:
        provider = Provider(Path(base) / ("x" * 150))
        child(observing(provider, 1))
        assert provider.directory is not None

        assert 1.0 == seen(Collector(provider.directory, worker_timeout=5))["u"]
        provider.shutdown()


NOISE = [b"", b"\n", b"x", b"x\n", b"{}\n", b'{"seconds": "x", "max_age": 0}\n', b"[" * 10_000, b"\xff\xfe\n"]


@pytest.mark.parametrize("noise", NOISE, ids=lambda noise: repr(noise)[:20])
def test_noise_at_a_worker(noise: bytes, shared: Provider, collector: Collector, child: Start, seen: Seen) -> None:
    """After any bytes at a worker's socket, the worker answers the next collector."""
    child(observing(shared, 1))
    (worker,) = list_workers(epoch(shared))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(Path(epoch(shared)) / worker.file))
        client.sendall(noise)

    assert 1.0 == seen(collector)["u"]


@pytest.mark.parametrize("answer", [None, b"", b"{}\n", b'{"shown": 5}\n', b"x" * 100_000, b'{"shown": ["x"]}\n'])
def test_noise_from_a_worker(answer: bytes | None, shared: Provider, child: Start, seen: Seen) -> None:
    """A program in a worker's place that sends nothing, or invalid bytes, does not hide the other workers' values."""
    child(observing(shared, 1))
    fake = str(Path(epoch(shared)) / f"ask-7-{'0' * 32}")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(fake)
    listener.listen()

    def speak() -> None:
        connection, _ = listener.accept()
        with connection:
            if answer is not None:
                connection.sendall(answer)
                return
            connection.recv(1 << 16)
            connection.recv(1)  # until the collector gives up

    thread = threading.Thread(target=speak)
    thread.start()
    assert shared.directory is not None
    shown = seen(Collector(shared.directory, worker_timeout=2))
    thread.join()
    listener.close()

    assert 1.0 == shown["u"]


def test_the_socket_of_a_dead_worker(shared: Provider, collector: Collector, child: Start, seen: Seen) -> None:
    """The socket of a dead worker is removed, also one that the worker had not finished making."""
    worker = child(observing(shared, 1))
    (listening,) = list_workers(epoch(shared))
    left = Path(epoch(shared)) / listening.file
    unfinished = Path(epoch(shared)) / f"new-ask-{listening.identity}"
    seen(collector)
    assert left.exists()
    worker.kill()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(unfinished))
    seen(collector)

    assert not left.exists()
    assert not unfinished.exists()


def test_private_memory_has_no_threads(scrape: Seen) -> None:
    """Without a store, no agent thread starts, and no thread is left after a collection."""
    provider = Provider()
    before = set(threading.enumerate())
    provider.meter("test").observable_gauge("g", callback=lambda observer: observer.observe(1), scope="worker")
    shown = scrape(provider)

    assert 1.0 == shown['g{worker="0"}']
    assert set(threading.enumerate()) <= before


def test_a_process_beside_the_workers(shared: Provider, child: Start, scrape: Seen) -> None:
    """The value of a process beside the workers is shown as ``beside-0``; the workers' ordinals begin at 0."""
    gauge = Gauge("g", "", provider=shared)
    shared.memory.be_auxiliary()
    gauge.set(1)
    child(lambda: gauge.set(2))
    shown = scrape(shared)

    assert (1.0, 2.0) == (shown['g{worker="beside-0"}'], shown['g{worker="0"}'])
    assert 1.0 == shown['mpmetrics_processes{state="live"}']


def test_self_metrics_of_another_version(shared: Provider, seen: Seen) -> None:
    """If another process has other metrics with the names of our self-metrics, all values are shown nevertheless."""
    other = Provider(shared.directory)
    Metric(Family("mpmetrics_callback_errors", "counter", "", "", ("other",)), other, 10)
    Metric(Family("mpmetrics_callback_duration_seconds", "counter", ""), other, 10).series(()).inc()
    meter = shared.meter("test")
    for scope in ("host", "worker"):
        meter.observable_up_down_counter(scope, callback=lambda observer: observer.observe(1), scope=scope)  # type: ignore[arg-type]

    assert {"host": 1.0, "worker": 1.0} == seen(shared)
    other.shutdown()


def test_a_killed_worker_with_a_child(shared: Provider, child: Start, scrape: Seen) -> None:
    """A child that outlives its parent does not keep the parent's socket open, so no scrape waits for it."""

    def work() -> None:
        observing(shared, 1)()
        read, write = os.pipe()
        os.set_inheritable(write, True)
        if not os.fork():
            os.close(read)
            deadline = time.monotonic() + 20
            while own(shared) not in {name.identity for name in list_workers(epoch(shared))} or not own(shared):
                assert time.monotonic() < deadline
                time.sleep(0.005)
            os.write(write, b"x")
            signal.alarm(30)
            signal.pause()
        os.read(read, 1)

    parent = child(work)
    (grandchild,) = (int(pid) for pid in Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split())
    assert shared.directory is not None
    collector = Collector(shared.directory, worker_timeout=5)
    try:
        assert 2.0 == scrape(collector)["u"]
        parent.kill()
        shown = scrape(collector)
        assert (1.0, set()) == (shown["u"], late(shown))
        assert 1 == len(list_workers(epoch(shared)))
    finally:
        os.kill(grandchild, signal.SIGKILL)


def test_a_series_that_only_another_worker_observes(
    shared: Provider, collector: Collector, child: Start, seen: Seen
) -> None:
    """The old value of a worker that no longer observes a series is not in the sum of the others."""

    def worker(times: int) -> Callable[[], object]:
        def work() -> None:
            runs = []

            def observe(observer: Any) -> None:
                runs.append(1)
                if len(runs) <= times:
                    observer.observe(1)

            shared.meter("test").observable_gauge("g", callback=observe, scope="worker", multiprocess_mode="livesum")
            while own(shared) not in {name.identity for name in list_workers(epoch(shared))} or not own(shared):
                time.sleep(0.005)

        return work

    child(worker(1))
    child(worker(2))

    assert [{"g": 2.0}, {"g": 1.0}, {}] == [seen(collector) for _ in range(3)]


def test_a_worker_that_collects(shared: Provider, seen: Seen) -> None:
    """A worker that collects runs its own callbacks once a collection."""
    runs = []
    shared.meter("test").observable_gauge("g", callback=lambda _: runs.append(1), scope="worker")
    wait_for_workers(shared, 1)
    collector = Collector(shared)
    for _ in range(3):
        seen(collector)

    assert 3 == len(runs)


def test_more_series_than_the_store_has_room_for(shared: Provider, seen: Seen) -> None:
    """At the cap of a metric, new series add up in its overflow series, and old ones stay."""
    runs = []

    def observe(observer: Any) -> None:
        runs.append(1)
        observer.observe(1, {"k": "always"})
        observer.observe(1, {"k": f"{len(runs)} a"})
        observer.observe(1, {"k": f"{len(runs)} b"})

    meter = shared.meter("test")
    meter.observable_up_down_counter("u", callback=observe, scope="worker", max_series=3)
    wait_for_workers(shared, 1)
    collector = Collector(shared)

    assert {'u{k="always"}': 1.0, 'u{k="1 a"}': 1.0, 'u{k="1 b"}': 1.0} == seen(collector)
    assert {'u{k="always"}': 1.0, 'u{otel_metric_overflow="true"}': 2.0} == seen(collector)


def test_callbacks_that_were_unregistered(shared: Provider, scrape: Seen) -> None:
    """An unregistered callback is not reported as unserved, unless another process has registered it, too."""
    meter = shared.meter("test")
    gauge = meter.observable_gauge("g")
    first = meter.register_callback(lambda _: None, gauge)
    second = meter.register_callback(lambda _: None, gauge)
    name = f'mpmetrics_callback_served{{instrument="g",module="{__name__}"}}'
    first.unregister()
    assert 1.0 == scrape(shared)[name]

    second.unregister()
    assert name not in scrape(shared)


def test_another_metric_of_that_name(shared: Provider, child: Start, seen: Seen) -> None:
    """A different metric that another process declared later is shown in place of ours; all others are shown."""
    ours = Provider(shared.directory)
    meter = ours.meter("test")
    for name in ("g", "good"):
        meter.observable_gauge(name, callback=lambda observer: observer.observe(1))
    other = child(lambda: Counter("g", "", ["a", "b"], provider=shared).labels("1", "2").inc())

    assert {'g_total{a="1",b="2"}': 1.0, "good": 1.0} == seen(ours)
    other.kill()
    assert {"g": 1.0, "good": 1.0} == seen(ours), "ours is the only one that a living process declares"
    ours.shutdown()


def test_an_impatient_scraper(provider: Provider) -> None:
    """A caller that shares a collection with one whose time is up still gets what callbacks observe."""
    entered, leave = threading.Event(), threading.Event()
    runs = []

    def observe(observer: Any) -> None:
        runs.append(1)
        if len(runs) == 1:
            entered.set()
            leave.wait(20)
        observer.observe(len(runs))

    provider.meter("test").observable_gauge("g", callback=observe)
    collector = Collector(provider)
    answers: dict[str, list[str]] = {}

    def ask(name: str, timeout: float | None) -> None:
        readings = collector.readings(timeout)
        answers[name] = [reading.name for reading in readings if reading.original]

    first, second, third = (
        threading.Thread(target=ask, args=each) for each in (("first", None), ("impatient", 0.01), ("third", None))
    )
    first.start()
    entered.wait(20)
    second.start()
    third.start()
    time.sleep(0.5)  # longer than the impatient caller waits
    leave.set()
    for thread in (first, second, third):
        thread.join()

    assert {"first": ["g"], "impatient": ["g"], "third": ["g"]} == answers
