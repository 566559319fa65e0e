"""Processes stopped at any step: the others go on, and totals are exact once the stopped ones continue."""

from __future__ import annotations

import bisect
import mmap
import os
import random
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics
from mpmetrics import _cells
from mpmetrics._cells import pure
from mpmetrics.registry import Registry
from mpmetrics.storage import removals, store
from mpmetrics.storage.fold import fold
from mpmetrics.storage.locks import DirectoryMutex, Mutex
from mpmetrics.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = float(os.environ.get("MPMETRICS_TORTURE_SECONDS", "1"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for stopped processes are as bounded as they are, only shorter."""
    monkeypatch.setattr(removals, "PATIENCE", 0.03)
    monkeypatch.setattr(store, "_BEGIN_TIMEOUT", 0.2)


class Used:
    """Some metrics of all sorts in one provider, each use of which counts one."""

    def __init__(self, provider: mpmetrics.Provider) -> None:
        self.provider = provider
        of = {"provider": provider}
        self.hits = mpmetrics.Counter("hits", "Hits.", ["who"], **of)
        self.took = mpmetrics.Histogram("took", "Took.", ["who"], buckets=(1, 2), **of)
        self.latest = mpmetrics.Gauge("latest", "Latest.", ["who"], multiprocess_mode="mostrecent", **of)
        self.mood = mpmetrics.Enum("mood", "Mood.", states=("good", "bad"), **of)
        self.paid = provider.meter("kit").up_down_counter("paid")
        self.timer = Registry("kit", provider=provider).get_or_register_timer("timer")

    def use(self, who: str) -> None:
        """One use of each."""
        self.hits.labels(who).inc()
        self.took.labels(who).observe(1.5)
        self.latest.labels(who).set(7)
        self.mood.state("bad")
        self.paid.add(1, {"who": who})
        self.timer.update(1.5)


def counted(source: Any) -> dict[str, float]:
    """How often each was used; every distribution is whole."""
    sums: dict[str, float] = {}
    for family in mpmetrics.Collector(source).collect():
        for sample in family.samples:
            if sample.labels.get("who", "").startswith("gone"):
                continue
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
            if sample.name == "latest":
                assert 7 == sample.value
    assert sums.get("took_sum", 0.0) == 1.5 * sums.get("took_count", 0.0)
    assert 0 == sums["mpmetrics_damaged_records"]
    return {name: sums.get(name, 0.0) for name in ("hits_total", "took_count", "paid")}


def uses(number: int) -> dict[str, float]:
    """What :func:`counted` gives after so many."""
    return dict.fromkeys(("hits_total", "took_count", "paid"), float(number))


def first_use(used: Used, number: int) -> None:
    """A process's first write, which leases its slab, claims an ordinal, and makes series."""
    used.use(f"new-{number}")


def removal(used: Used, number: int) -> None:
    """Series that come and go."""
    used.use("old")
    used.hits.labels(f"gone-{number}").inc()
    used.hits.remove(f"gone-{number}")


def scrape(used: Used, _number: int) -> None:
    """A scrape, which folds the dead."""
    used.use("old")
    mpmetrics.Collector(str(used.provider.directory)).readings()


@pytest.mark.parametrize("action", [first_use, removal, scrape])
def test_a_process_stopped_at_any_step_holds_up_no_other_and_loses_nothing(
    action: Callable[[Used, int], None],
    shared: mpmetrics.Provider,
    child: Callable[..., Any],
    stopping: Callable[..., Any],
    bounded: Callable[..., Any],
) -> None:
    """Whatever lock or half-written file it has, others lease, make series and scrape, and totals are exact."""
    used = Used(shared)
    used.use("old")
    whole = stopping(lambda: action(used, -1), 10**9)
    assert whole.go_on() == 0
    tries = max(12, int(12 * SECONDS))
    span = _count_steps(lambda: action(used, -2)) // tries
    total = 3  # that was a process, too
    for number in range(tries):
        at = number * span + random.randrange(span)

        def other(number: int = number) -> None:
            bounded(lambda: used.use("old"))
            bounded(lambda: used.use(f"other-{number}"))
            assert not list(shared.memory.private_maps())

        stopped = stopping(lambda number=number: action(used, number), at)
        child(other).end()
        shown = bounded(lambda: counted(str(shared.directory)))
        assert all(total + 2 <= value <= total + 3 for value in shown.values()), (at, shown)
        assert stopped.go_on() == 0
        total += 3
        assert uses(total) == counted(str(shared.directory)), at


def _count_steps(action: Callable[[], object]) -> int:
    """How many bytecodes of the library an action takes, in a child."""
    from sys import settrace  # noqa: PLC0415 (used in the child alone)

    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        taken = 0

        def enter(frame: Any, _event: str, _argument: object) -> Any:
            frame.f_trace = step
            frame.f_trace_opcodes = os.path.dirname(mpmetrics.__file__) in frame.f_code.co_filename  # noqa: PTH120
            frame.f_trace_lines = False
            return step

        def step(_frame: Any, event: str, _argument: object) -> Any:
            nonlocal taken
            taken += event == "opcode"
            return step

        settrace(enter)
        action()
        settrace(None)
        os.write(writer, str(taken).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with os.fdopen(reader) as stream:
        return int(stream.read())


def test_a_stop_at_random_in_a_loop_of_observations_shows_whole_ones(
    shared: mpmetrics.Provider, child: Callable[..., Any]
) -> None:
    """Scrapes show whole distributions of a worker that is stopped again and again while it counts."""
    used = Used(shared)
    own = memoryview(mmap.mmap(-1, 8)).cast("Q")

    def work() -> None:
        pid = os.fork()
        if pid:
            own_pid[0] = pid
            return
        while not own_pid[1]:
            used.use("worker")
            own[0] += 1
        os._exit(0)

    own_pid = memoryview(mmap.mmap(-1, 16)).cast("Q")
    child(work).end()
    pid = own_pid[0]
    stops = 0
    deadline = time.monotonic() + SECONDS
    try:
        while time.monotonic() < deadline or stops < 20:
            os.kill(pid, signal.SIGSTOP)
            before = own[0]
            shown = counted(str(shared.directory))
            os.kill(pid, signal.SIGCONT)
            stops += 1
            assert all(value >= before for value in shown.values())
            time.sleep(random.uniform(0, 0.003))
    finally:
        os.kill(pid, signal.SIGCONT)
        own_pid[1] = 1
    _wait_until_gone(pid)

    assert stops >= 20
    assert uses(own[0]) == counted(str(shared.directory))


def _wait_until_gone(pid: int) -> None:
    """Wait until a process, no child of ours, has ended."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
                if stat.read().rpartition(")")[2].split()[0] in {"Z", "X"}:
                    return
        except FileNotFoundError:
            return
        time.sleep(0.01)
    pytest.fail("it does not end")


NAIVE = """
def observe(self, amount):
    while self._live[0] != self._stamp:
        self._ready()
    words, at = self._words, self._at
    total = words[at] + amount
    words[at] = total
    words[at + 1] = total
    words[at + 2 + bisect_left(self._children.bounds, amount)] += 1.0
"""


@pytest.mark.skipif(_cells.TWIN != "pure", reason="signals come between operations of the compiled twin, never within")
@pytest.mark.parametrize("is_naive", [False, True], ids=["as it is", "control"])
def test_a_worker_stopped_between_the_stores_of_a_histogram_shows_all_or_none_of_them(
    shared: mpmetrics.Provider, stopping: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, *, is_naive: bool
) -> None:
    """A worker stopped at any bytecode of an observation shows all or none of it; the control has one word as sum."""
    if is_naive:
        names: dict[str, Any] = {"bisect_left": bisect.bisect_left}
        exec(compile(NAIVE, pure.__file__, "exec"), names)  # noqa: S102 (as if it stood there)
        monkeypatch.setattr(pure.DistributionCell, "observe", names["observe"])
    took = mpmetrics.Histogram("took", "Took.", buckets=(1, 2), provider=shared)
    took.observe(1.5)
    shown, torn, at = set(), 0, 0
    for at in range(100):
        stopped = stopping(lambda: (took.observe(1.5), took.observe(1.5)), at, "observe")
        if not stopped.is_stopped:
            break
        total, count = _value(shared, "took_sum"), _value(shared, "took_count")
        torn += total != 1.5 * count
        shown.add(count - 1 - 2 * at)
        assert stopped.go_on() == 0

    assert 20 < at < 100
    assert {0.0, 1.0} <= shown
    assert is_naive == bool(torn)
    assert 1 + 2 * (at + 1) == _value(shared, "took_count")


def _value(provider: mpmetrics.Provider, name: str) -> float:
    samples = [sample for family in mpmetrics.Collector(provider).collect() for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == name)


@pytest.mark.parametrize("step", ["rename", "unlink"])
def test_a_fold_stopped_before_and_after_its_commit_changes_no_total(
    step: str,
    shared: mpmetrics.Provider,
    child: Callable[..., Any],
    bounded: Callable[..., Any],
) -> None:
    """While a fold is stopped before its rename or its unlinks, scrapes and leases go on and each slab counts once."""
    used = Used(shared)
    for _ in range(3):
        child(lambda: used.use("dead")).end()
    pid = os.fork()
    if not pid:
        real = getattr(os, step)

        def stop(*arguments: Any, **named: Any) -> Any:
            setattr(os, step, real)
            os.kill(os.getpid(), signal.SIGSTOP)
            return real(*arguments, **named)

        setattr(os, step, stop)
        try:
            fold(shared.epoch.path)  # type: ignore[union-attr]
        finally:
            os._exit(0)
    assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
    for number in range(3):
        assert uses(3 + number) == bounded(lambda: counted(str(shared.directory)))
        child(lambda: bounded(lambda: used.use("later"))).end()
    os.kill(pid, signal.SIGCONT)
    os.waitpid(pid, 0)

    assert uses(6) == counted(str(shared.directory))
    assert uses(6) == counted(str(shared.directory))


@pytest.mark.parametrize("name", [".", "fold.lock", "removals.lock"])
def test_no_process_waits_for_one_that_is_stopped_with_a_lock(
    name: str, shared: mpmetrics.Provider, child: Callable[..., Any], bounded: Callable[..., Any]
) -> None:
    """While a stopped process holds a lock of the epoch, others start, count, end, scrape and fold without waiting."""
    used = Used(shared)
    for _ in range(20):
        child(lambda: used.use("dead")).end()
    mutex = DirectoryMutex if name == "." else Mutex
    with mutex(f"{shared.epoch.path}/{name}", 1.0):  # type: ignore[union-attr]
        child(lambda: bounded(lambda: used.use("new"))).end()
        assert uses(21) == bounded(lambda: counted(str(shared.directory)))
        if name == "removals.lock":
            with pytest.raises(mpmetrics.StoreError, match="is one stopped"):
                used.hits.remove("dead")
    assert uses(21) == counted(str(shared.directory))


def test_a_server_start_beside_a_stopped_one_fails_clearly_in_time(
    store_directory: str, bounded: Callable[..., Any], child: Callable[..., Any]
) -> None:
    """While a stopped start holds the begin lock, another start raises and says why; running processes go on."""
    mine = mpmetrics.Provider(store_directory)
    hits = mpmetrics.Counter("hits", "Hits.", provider=mine)
    pid = os.fork()
    if not pid:
        store._BEGIN_TIMEOUT = 5.0
        begin = Store._begin

        def stop(self: Store, **named: Any) -> Any:
            os.kill(os.getpid(), signal.SIGSTOP)
            return begin(self, **named)

        Store._begin = stop  # type: ignore[method-assign]
        try:
            Store(store_directory).begin()
        finally:
            os._exit(0)
    assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
    with pytest.raises(mpmetrics.StoreError, match="is one stopped"):
        bounded(lambda: Store(store_directory).begin())

    bounded(hits.inc)
    child(hits.inc).end()

    def join() -> None:
        late = mpmetrics.Provider(store_directory)  # as a process that is spawned
        mpmetrics.Counter("hits", "Hits.", provider=late).inc()

    child(lambda: bounded(join)).end()
    os.kill(pid, signal.SIGCONT)
    os.waitpid(pid, 0)

    assert 3 == _value(mine, "hits_total")
    assert 2 <= Store(store_directory).begin().number
    mine.shutdown()
