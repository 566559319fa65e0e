"""Totals are exact when processes live, exit, are killed, fork, or start in any way."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics
from mpmetrics import _cells
from mpmetrics._cells import files
from mpmetrics._cells.slab import Slab
from mpmetrics.collector.epoch_reader import EpochReader
from mpmetrics.storage import format as fmt
from mpmetrics.storage.fold import fold
from mpmetrics.storage.slab import is_alive, list_slabs
from mpmetrics.storage.store import Store

if TYPE_CHECKING:
    from mpmetrics.collector.snapshot import Column

Fork = Callable[..., Any]
MakeProvider = Callable[[], mpmetrics.Provider]

WORKERS = 6
EACH = 2_000

# The program of a process that was not forked: it finds the store by its path.
WORK = f"""
import mpmetrics
hits = mpmetrics.Counter("hits", "Hits.", ["code"])
sizes = mpmetrics.Histogram("sizes", "Sizes.", buckets=(1, 2))
child = hits.labels("200")
for _ in range({EACH}):
    child.inc()
    sizes.observe(1.5)
"""


def provider_map(provider: mpmetrics.Provider) -> Any:
    """The map of the provider's slab in this process."""
    leased = provider.memory._leased
    assert leased is not None
    return leased.map


def metrics(provider: mpmetrics.Provider) -> tuple[mpmetrics.Counter, mpmetrics.Histogram]:
    """The metrics that the workers write to."""
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=provider)
    return hits, mpmetrics.Histogram("sizes", "Sizes.", buckets=(1, 2), provider=provider)


def work(provider: mpmetrics.Provider) -> None:
    """The work of one worker."""
    hits, sizes = metrics(provider)
    child = hits.labels("200")
    for _ in range(EACH):
        child.inc()
        sizes.observe(1.5)


def start_forked(fork: Fork, provider: mpmetrics.Provider) -> list[Callable[[], object]]:
    """Start workers by a fork after the provider was made."""
    return [fork(work, provider).result for _ in range(WORKERS)]


def start_spawned(_fork: Fork, _provider: mpmetrics.Provider) -> list[Callable[[], object]]:
    """Start workers by multiprocessing's method spawn, with fresh memory."""
    context = multiprocessing.get_context("spawn")
    started = [context.Process(target=exec, args=(WORK, {})) for _ in range(WORKERS)]
    for process in started:
        process.start()
    return [process.join for process in started]


def start_executed(_fork: Fork, _provider: mpmetrics.Provider) -> list[Callable[[], object]]:
    """Start workers as programs of their own."""
    return [subprocess.Popen([sys.executable, "-c", WORK]).wait for _ in range(WORKERS)]


def start_threads(_fork: Fork, provider: mpmetrics.Provider) -> list[Callable[[], object]]:
    """Start workers as threads of this process."""
    threads = [threading.Thread(target=work, args=(provider,)) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    return [thread.join for thread in threads]


@pytest.mark.parametrize("start", [start_forked, start_spawned, start_executed, start_threads])
def test_every_increment_counts_once(
    start: Callable[..., list[Callable[[], object]]],
    fork: Fork,
    provider: MakeProvider,
    store_dir: str,
    scrape: Callable[..., dict[str, float]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """N workers with K increments each give N x K, however they start, after their end and after a fold."""
    monkeypatch.setenv("MPMETRICS_DIR", store_dir)
    mine = provider()

    for join in start(fork, mine):
        join()

    for _ in range(2):
        values = scrape(store_dir)
        assert WORKERS * EACH == values["hits_total{code=200}"]
        assert WORKERS * EACH == values["sizes_count"]
        assert 1.5 * WORKERS * EACH == values["sizes_sum"]
        assert [0, WORKERS * EACH, WORKERS * EACH] == [
            values[f"sizes_bucket{{le={bound}}}"] for bound in ("1.0", "2.0", "+Inf")
        ]


def test_the_total_is_the_same_while_workers_live_and_after_they_ended(
    fork: Fork,
    gate: Callable[..., Any],
    provider: MakeProvider,
    store_dir: str,
    scrape: Callable[..., dict[str, float]],
) -> None:
    """The living slabs and, later, the retired file give the same total."""
    done, leave = gate(), gate()
    mine = provider()

    def stay() -> None:
        work(mine)
        done.open()
        leave.wait()

    children = [fork(stay) for _ in range(WORKERS)]
    done.wait(WORKERS)
    alive = scrape(store_dir)
    leave.open(WORKERS)
    for child in children:
        child.wait()
    dead = scrape(store_dir)

    assert WORKERS == alive["mpmetrics_processes{state=live}"]
    assert 0 == dead["mpmetrics_processes{state=live}"] + dead["mpmetrics_processes{state=dead}"]
    assert WORKERS * EACH == alive["hits_total{code=200}"] == dead["hits_total{code=200}"]
    assert WORKERS == dead["mpmetrics_folds_total"] - alive["mpmetrics_folds_total"]


def test_a_killed_worker_loses_at_most_the_operation_in_flight(
    fork: Fork, provider: MakeProvider, store_dir: str, scrape: Callable[..., dict[str, float]]
) -> None:
    """Each worker reports each finished operation: the count is that, or one more for the operation at its kill."""
    mine = provider()
    hits = mpmetrics.Counter("hits", "Hits.", ["worker"], provider=mine)
    sizes = mpmetrics.Histogram("sizes", "Sizes.", ["worker"], buckets=(1, 2), provider=mine)
    shared = mmap.mmap(-1, 8 * 2 * WORKERS)
    reported = memoryview(shared).cast("Q")

    def write(number: int) -> None:
        counter, histogram = hits.labels(str(number)), sizes.labels(str(number))
        while True:
            counter.inc()
            reported[2 * number] += 1
            histogram.observe(1.5)
            reported[2 * number + 1] += 1

    children = [fork(write, number) for number in range(WORKERS)]
    for number in range(WORKERS):
        deadline = time.monotonic() + 30
        while reported[2 * number + 1] < 500:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    for child in children[::2]:
        child.stop()
    between = scrape(store_dir)
    for child in children[1::2]:
        child.stop()
    values = scrape(store_dir)

    for number in range(WORKERS):
        counted = values[f"hits_total{{worker={number}}}"]
        assert reported[2 * number] <= counted <= reported[2 * number] + 1
        observed = values[f"sizes_count{{worker={number}}}"]
        assert reported[2 * number + 1] <= observed <= reported[2 * number + 1] + 1
        assert 1.5 * observed == values[f"sizes_sum{{worker={number}}}"]
        assert observed == values[f"sizes_bucket{{worker={number},le=+Inf}}"]
        if number % 2 == 0:
            assert between[f"hits_total{{worker={number}}}"] == counted


def test_the_check_for_lost_operations_notices_one(
    fork: Fork, provider: MakeProvider, store_dir: str, scrape: Callable[..., dict[str, float]]
) -> None:
    """The control: the comparison above detects a worker that loses an operation."""
    mine = provider()
    hits = mpmetrics.Counter("hits", "Hits.", ["worker"], provider=mine)

    def write() -> int:
        child = hits.labels("0")
        for _ in range(5):
            child.inc()
        memoryview(provider_map(mine)).cast("d")[child.place] -= 2
        return 5

    reported = fork(write).result()

    assert not reported <= scrape(store_dir)["hits_total{worker=0}"] <= reported + 1


def test_hundreds_of_short_lived_workers_leave_no_files_and_lose_nothing(
    fork: Fork,
    gate: Callable[..., Any],
    provider: MakeProvider,
    store_dir: str,
    scrape: Callable[..., dict[str, float]],
) -> None:
    """400 workers with 100 series each exit or are killed during scrapes: exact, monotonic totals, and few files."""
    mine = provider()
    hits = mpmetrics.Counter("hits", "Hits.", ["series"], provider=mine)
    path = str(mine.epoch.path)
    started, stop = gate(), gate()

    def watch() -> int:
        collector = mpmetrics.Collector(store_dir)
        before: dict[str, float] = {}
        rounds = 0
        while not stop.is_open:
            values = {name: value for name, value in scrape(collector).items() if name.startswith("hits_total")}
            for name, value in before.items():
                assert value <= values.get(name, -1.0), f"{name} went from {value} to {values.get(name)}"
            before = values
            rounds += 1
            if rounds == 1:
                started.open()
        return rounds

    def serve(number: int) -> None:
        for series in range(100):
            hits.labels(str(series)).inc()
        if number % 2:
            os.kill(os.getpid(), signal.SIGKILL)

    watcher = fork(watch)
    started.wait()
    most = 0
    for batch in range(0, 400, 100):
        running: list[int] = []
        for number in range(batch, batch + 100):
            pid = os.fork()
            if pid == 0:
                try:
                    serve(number)
                finally:
                    os._exit(0)
            running.append(pid)
            if len(running) == 8:
                os.waitpid(running.pop(0), 0)
            most = max(most, len(os.listdir(path)))
        for pid in running:
            os.waitpid(pid, 0)
        while fold(path) or any(not is_alive(f"{path}/{slab.file}") for slab in list_slabs(path)):
            time.sleep(0.01)  # until the watcher has folded some
        assert len(os.listdir(path)) <= 12
    stop.open()

    assert watcher.result() > 0
    assert most <= 12 + 128
    values = scrape(store_dir)
    assert {400.0} == {values[f"hits_total{{series={series}}}"] for series in range(100)}
    assert 400 == values["mpmetrics_folds_total"]
    assert 0 == values["mpmetrics_drops_total"]


def test_a_child_never_exports_its_parents_values(
    fork: Fork, provider: MakeProvider, store_dir: str, scrape: Callable[..., dict[str, float]]
) -> None:
    """What the parent wrote before a fork counts once, whichever process lives on."""
    mine = provider()
    hits = mpmetrics.Counter("hits", "Hits.", provider=mine)
    hits.inc(5)

    def write() -> dict[str, float]:
        hits.inc()
        return scrape(mine)

    assert 6 == fork(write).result()["hits_total"]
    assert 6 == scrape(store_dir)["hits_total"] == scrape(mine)["hits_total"]
    hits.inc()
    assert 7 == scrape(store_dir)["hits_total"]


def test_only_the_parent_moves_its_waiting_values_in(
    fork: Fork, store_dir: str, scrape: Callable[..., dict[str, float]]
) -> None:
    """Values that wait for a store at a fork are moved into it by the parent, not by the child."""
    mine = mpmetrics.Provider.deferred()
    hits = mpmetrics.Counter("hits", "Hits.", provider=mine)
    hits.inc(5)
    epoch = Store(store_dir).join()

    def write() -> None:
        mine.attach(epoch)
        hits.inc()

    fork(write).result()
    assert 1 == scrape(store_dir)["hits_total"]
    mine.attach(epoch)
    assert 6 == scrape(store_dir)["hits_total"]
    mine.shutdown()


def test_a_child_leases_a_slab_at_its_first_write(
    fork: Fork, provider: MakeProvider, slabs: Callable[[str], list[str]]
) -> None:
    """A child that only looks up series has no slab with an ordinal; a child that writes has its own."""
    mine = provider()
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=mine)
    path = str(mine.epoch.path)
    assert [] == slabs(path)
    hits.labels("200").inc()
    before = slabs(path)

    def look_up() -> list[str]:
        hits.labels("200")
        hits.labels("404")
        return slabs(path)

    def write() -> list[str]:
        hits.labels("200").inc()
        return slabs(path)

    assert 1 == len(before)
    assert before == fork(look_up).result()
    assert 1 == len(set(fork(write).result()) - set(before))


def die_with_a_child_left(mine: mpmetrics.Provider, ready: Any, make_child: Callable[[Any], object]) -> None:
    """Write, start a child that outlives this process and never writes, and wait to be killed."""
    mpmetrics.Counter("hits", "Hits.", provider=mine).inc()
    make_child(mine)
    ready.open()
    time.sleep(60)


def fork_sleeper(_: object) -> None:
    """Fork a child that inherits everything and sleeps."""
    if os.fork() == 0:
        with contextlib.suppress(BaseException):
            time.sleep(60)
        os._exit(0)


def fork_sleeper_twice(_: object) -> None:
    """Fork a grandchild that inherits everything and sleeps; its parent exits."""
    pid = os.fork()
    if pid == 0:
        fork_sleeper(None)
        os._exit(0)
    os.waitpid(pid, 0)


def execute_sleeper(_: object) -> None:
    """Start another program with all inheritable descriptors."""
    subprocess.Popen(["/bin/sleep", "60"], close_fds=False)


def fork_sleeper_with_the_lease(mine: mpmetrics.Provider) -> None:
    """The control: a child inherits a duplicate of the lease's descriptor, so the lock outlives the owner."""
    path = str(mine.epoch.path)
    (name,) = (name for name in os.listdir(path) if name.startswith("slab-"))
    mine.memory._leased.release()
    fcntl.flock(os.open(f"{path}/{name}", os.O_RDWR), fcntl.LOCK_EX)
    fork_sleeper(None)


@pytest.mark.parametrize(
    ("make_child", "alive"),
    [
        (fork_sleeper, False),
        (fork_sleeper_twice, False),
        (execute_sleeper, False),
        pytest.param(fork_sleeper_with_the_lease, True, id="control"),
    ],
)
def test_a_lease_ends_with_its_owner_although_a_child_lives_on(
    make_child: Callable[[Any], object],
    alive: bool,  # noqa: FBT001 (the outcome of a case)
    fork: Fork,
    gate: Callable[..., Any],
    provider: MakeProvider,
    slabs: Callable[[str], list[str]],
) -> None:
    """A killed parent's slab is dead at once, although a child lives on; a leaked descriptor is the control."""
    mine, ready = provider(), gate()
    path = str(mine.epoch.path)

    def lead() -> None:
        os.setpgid(0, 0)
        die_with_a_child_left(mine, ready, make_child)

    parent = fork(lead)
    try:
        ready.wait()
        (slab,) = slabs(path)
        assert is_alive(f"{path}/{slab}")
        parent.stop()
        deadline = time.monotonic() + 5  # a child that has just been forked may not have run yet
        while not alive and is_alive(f"{path}/{slab}") and time.monotonic() < deadline:
            time.sleep(0.001)
        assert alive == is_alive(f"{path}/{slab}")
    finally:
        os.killpg(parent.pid, signal.SIGKILL)


pure = pytest.mark.skipif(_cells.TWIN != "pure", reason="nothing of its process comes between in the compiled twin")


@pure
@pytest.mark.parametrize("lets_go", [True, False], ids=["", "control"])
def test_a_child_forked_while_a_slab_is_made_does_not_keep_its_lease(
    lets_go: bool,  # noqa: FBT001 (whether the protection is in place)
    fork: Fork,
    gate: Callable[..., Any],
    provider: MakeProvider,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If another thread forks while a slab is being made, the lease still ends with the parent, not with the child."""
    mine, ready, leave = provider(), gate(), gate()
    path = str(mine.epoch.path)
    allocate, children = os.posix_fallocate, []

    def fork_and_allocate(*given: Any) -> None:
        if not children:
            if not lets_go:
                files.slabs_in_making.clear()
            thread = threading.Thread(target=lambda: children.append(fork(lambda: (ready.open(), leave.wait()))))
            thread.start()
            thread.join()
            ready.wait()
        allocate(*given)

    monkeypatch.setattr(os, "posix_fallocate", fork_and_allocate)
    mpmetrics.Counter("hits", "Hits.", provider=mine).inc()
    (slab,) = list_slabs(path)
    assert is_alive(f"{path}/{slab.file}")
    mine.memory._leased.release()

    assert lets_go == (not is_alive(f"{path}/{slab.file}"))
    leave.open()


@pure
@pytest.mark.parametrize("looks", [True, False], ids=["", "control"])
def test_a_signal_handlers_child_that_goes_on_with_its_parents_slab_has_its_own(
    looks: bool,  # noqa: FBT001 (whether the protection is in place)
    gate: Callable[..., Any],
    provider: MakeProvider,
    slabs: Callable[[str], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A signal handler forks while a slab is being made: parent and child each count in a locked slab of their own."""
    mine, counted, leave = provider(), gate(), gate()
    path = str(mine.epoch.path)
    allocate, pids = os.posix_fallocate, []

    def fork_and_allocate(*given: Any) -> None:
        if not pids:
            pids.append(os.fork())
        allocate(*given)

    if not looks:
        monkeypatch.setattr(files, "_check", lambda *_: None)
    monkeypatch.setattr(os, "posix_fallocate", fork_and_allocate)
    hits = mpmetrics.Counter("hits", "Hits.", provider=mine)
    hits.inc()
    if not pids[0]:
        counted.open()
        leave.wait()
        os._exit(0)
    counted.wait()

    found = [is_alive(f"{path}/{name}") for name in slabs(path)]
    leave.open()
    os.waitpid(pids[0], 0)
    assert looks == (found == [True, True])


def test_ordinals_are_small_and_reused(fork: Fork, gate: Callable[..., Any], provider: MakeProvider) -> None:
    """Each worker gets the smallest ordinal that is free at its first write."""
    mine, ready, leave = provider(), gate(), gate()
    gauge = mpmetrics.Gauge("busy", "Busy.", provider=mine)
    path = str(mine.epoch.path)

    def stay() -> None:
        gauge.set(1)
        ready.open()
        leave.wait()

    def live() -> list[int]:
        slabs = [slab for slab in list_slabs(path) if slab.file.startswith("slab-")]
        return sorted(slab.ordinal for slab in slabs if is_alive(f"{path}/{slab.file}"))

    children = []
    for _ in range(4):
        children.append(fork(stay))
        ready.wait()
    assert [0, 1, 2, 3] == live()
    children[1].stop()
    children[2].stop()
    assert [0, 3] == live()
    for expected in ([0, 1, 3], [0, 1, 2, 3], [0, 1, 2, 3, 4]):
        children.append(fork(stay))
        ready.wait()
        assert expected == live()


def test_a_gauge_per_worker_keeps_its_labels_bounded(
    fork: Fork, provider: MakeProvider, store_dir: str, scrape: Callable[..., dict[str, float]]
) -> None:
    """A gauge shows 50 consecutive workers under one worker label."""
    gauge = mpmetrics.Gauge("last", "Last.", multiprocess_mode="all", provider=provider())

    for number in range(50):
        fork(gauge.set, number).result()

    values = scrape(store_dir)
    assert {"last{worker=0}": 49.0} == {name: value for name, value in values.items() if name.startswith("last")}


@pytest.mark.skipif(_cells.TWIN != "pure", reason="nothing of its process comes between in the compiled twin")
def test_a_fork_in_the_middle_of_a_new_series_keeps_child_and_parent_apart(
    fork: Fork,
    gate: Callable[..., Any],
    provider: MakeProvider,
    store_dir: str,
    scrape: Callable[..., dict[str, float]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a fork while another thread makes room for a series, the child does not hang and series stay separate."""
    mine = provider()
    hits = mpmetrics.Counter("hits", "Hits.", ["who"], provider=mine)
    hits.labels("early").inc()
    inside, go_on = threading.Event(), threading.Event()
    grow = Slab.grow

    def pause(self: Slab, words: int, size: int) -> bool:
        if threading.current_thread() is thread:
            inside.set()
            assert go_on.wait(30)
        return grow(self, words, size)

    def make() -> None:
        for number in range(500):  # until the slab is full
            hits.labels(f"fill-{number}")
        hits.labels("thread").inc(10)

    thread = threading.Thread(target=make)
    monkeypatch.setattr(Slab, "grow", pause)
    thread.start()
    assert inside.wait(30)
    parent_is_done = gate()

    def write() -> None:
        parent_is_done.wait()
        hits.labels("child").inc(100)

    child = fork(write)
    go_on.set()
    thread.join()
    parent_is_done.open()
    child.result()

    values = scrape(store_dir)
    assert (1, 10, 100) == tuple(values[f"hits_total{{who={who}}}"] for who in ("early", "thread", "child"))
    assert 0 == values["mpmetrics_damaged_records"]


def test_forks_in_a_storm_of_new_series_stay_exact(
    fork: Fork, provider: MakeProvider, store_dir: str, scrape: Callable[..., dict[str, float]]
) -> None:
    """Children forked while threads make series do not hang, and their counts and series stay separate."""
    mine = provider()
    hits = mpmetrics.Counter("hits", "Hits.", ["who"], provider=mine)
    stop = threading.Event()
    made = [0, 0]

    def storm(number: int) -> None:
        while not stop.is_set() and made[number] < 4900:
            hits.labels(f"thread-{number}-{made[number]}").inc()
            made[number] += 1

    threads = [threading.Thread(target=storm, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()

    def write(number: int) -> None:
        for _ in range(10):
            hits.labels(f"child-{number}").inc()

    children = [fork(write, number) for number in range(40)]
    for child in children:
        child.result()
    stop.set()
    for thread in threads:
        thread.join()

    mine.force_flush()
    values = scrape(store_dir)
    assert {10.0} == {values[f"hits_total{{who=child-{number}}}"] for number in range(40)}
    for number in range(2):
        assert {1.0} == {values[f"hits_total{{who=thread-{number}-{index}}}"] for index in range(made[number])}
    assert 0 == values["mpmetrics_damaged_records"]


def test_a_forked_collector_still_reads(
    fork: Fork, provider: MakeProvider, store_dir: str, scrape: Callable[..., dict[str, float]]
) -> None:
    """A collector that was used before a fork works in the child and does not disturb the parent's."""
    mine = provider()
    hits = mpmetrics.Counter("hits", "Hits.", provider=mine)
    collector = mpmetrics.Collector(store_dir)
    hits.inc()
    scrape(collector)

    def write() -> float:
        hits.inc()
        return scrape(collector)["hits_total"]

    assert 2 == fork(write).result()
    assert 2 == scrape(collector)["hits_total"]


def _counts(column: Column) -> bool:
    """Whether the column is the retired file's, or a worker's that has counted."""
    return column.is_retired or column.ordinal < fmt.AUXILIARY


def test_a_reader_with_files_open_follows_workers_that_come_and_go(fork: Fork, provider: MakeProvider) -> None:
    """A long-lived epoch reader shows each new worker's slab, and drops its column after the fold."""
    mine = provider()
    hits = mpmetrics.Counter("hits", "Hits.", provider=mine)
    reader = EpochReader(str(mine.epoch.path))

    def columns() -> list[bool]:
        return [column.is_retired for column in reader.snapshot().columns if _counts(column)]

    counts = []
    for _ in range(3):
        fork(hits.inc).result()
        counts.append(columns())
    fold(str(mine.epoch.path))

    assert [[False], [False] * 2, [False] * 3] == counts
    assert [True] == columns()
    reader.close()
