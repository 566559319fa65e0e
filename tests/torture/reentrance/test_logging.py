"""The standard library's logging around and inside: handlers that count, and locks that two threads hold crosswise."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics
from mpmetrics import turns
from mpmetrics.log_once import LogOnce, LogOnceUnlocked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger("mpmetrics")


class Counting(logging.Handler):
    """A log handler that counts records in a metric of its own, which it makes with the first one."""

    def __init__(self, provider: mpmetrics.Provider | None) -> None:
        super().__init__()
        self.of = {} if provider is None else {"provider": provider}
        self.records = 0
        self.depth = self.deepest = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Count the record, with a new series for each."""
        self.depth += 1
        self.deepest = max(self.deepest, self.depth)
        self.records += 1
        mpmetrics.Counter("log_records", "Records.", ["level"], **self.of).labels(record.levelname).inc()
        mpmetrics.Counter("log_lines", "Lines.", ["number"], **self.of).labels(str(self.records)).inc()
        self.depth -= 1


@pytest.fixture
def counting(shared: mpmetrics.Provider) -> Iterator[Counting]:
    """Such a handler, at the library's own logger."""
    handler = Counting(shared)
    log.addHandler(handler)
    yield handler
    log.removeHandler(handler)


@contextlib.contextmanager
def unusable(provider: mpmetrics.Provider) -> Iterator[None]:
    """The epoch's directory is not in its place: no process can make a slab, which is said in the log."""
    path = Path(provider.epoch.path)  # type: ignore[union-attr]
    away = path.rename(f"{path}-away")
    yield
    away.rename(path)


def test_a_log_handler_that_counts_does_not_recur(shared: mpmetrics.Provider, counting: Counting, shown: Any) -> None:
    """The library's own complaint, logged while a series is made, makes series: once, one deep, and all are counted."""
    with unusable(shared):
        hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=shared)
        for number in range(5):
            hits.labels(str(number)).inc()
        assert (1, 1) == (counting.records, counting.deepest)
    shared.force_flush()
    log.warning("another one")

    values = shown(str(shared.directory))
    assert 5 == sum(value for (name, _), value in values.items() if name == "hits_total")
    assert 2 == values["log_records_total", (("level", "WARNING"),)]
    assert 2 == sum(value for (name, _), value in values.items() if name == "log_lines_total")


def cross(make: Callable[[], object], declare: Callable[[], object], handler: logging.Handler) -> bool:
    """Whether two threads come to an end: one is in ``make`` and logs, the other has the handler's lock and declares.

    The second one has it before the first one logs, and declares once the first one is about to.
    """
    logs, has_lock = threading.Event(), threading.Event()

    class Announcing(logging.Filter):
        def filter(self, _record: logging.LogRecord) -> bool:
            if threading.current_thread() is first:
                logs.set()
                has_lock.wait(30)
            return True

    def second() -> None:
        with handler.lock or threading.Lock():
            has_lock.set()
            assert logs.wait(30)
            declare()

    announcing = Announcing()
    log.addFilter(announcing)
    first = threading.Thread(target=make, daemon=True)
    other = threading.Thread(target=second, daemon=True)
    other.start()
    assert has_lock.wait(30)
    first.start()
    deadline = time.monotonic() + 4
    for thread in (first, other):
        thread.join(max(0, deadline - time.monotonic()))
    alive = first.is_alive() or other.is_alive()
    for thread in (first, other):  # of the control: once one of them is out of patience
        thread.join(30)
    log.removeFilter(announcing)
    return not alive


@pytest.fixture
def sink() -> Iterator[logging.Handler]:
    """A handler with a lock."""
    handler = logging.FileHandler(os.devnull)
    log.addHandler(handler)
    yield handler
    log.removeHandler(handler)
    handler.close()


class Patient:
    """The lock of a provider's values, which the control waits for for a long time, and not for ever."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire(timeout=7.0)

    def __exit__(self, *_: object) -> None:
        if self._is_owned():
            self._lock.release()

    def _is_owned(self) -> bool:
        return self._lock._is_owned()  # type: ignore[attr-defined]


@pytest.mark.parametrize("is_naive", [False, True], ids=["as it is", "control"])
def test_declaring_within_a_log_handler_does_not_wait_for_one_who_declares_and_logs(
    shared: mpmetrics.Provider, sink: logging.Handler, monkeypatch: pytest.MonkeyPatch, *, is_naive: bool
) -> None:
    """Two threads that hold our lock and a log handler's crosswise go on; if one logs under ours, neither does."""
    if is_naive:
        monkeypatch.setattr(LogOnceUnlocked, "_emit", LogOnce._emit)  # logs at once, under the lock
        monkeypatch.setattr(LogOnceUnlocked, "lock", Patient())

    def make() -> None:
        mpmetrics.Counter("one", "One.", provider=shared).inc()

    def declare() -> None:
        mpmetrics.Counter("other", "Other.", provider=shared).inc()

    with unusable(shared):
        assert is_naive != cross(make, declare, sink)


@pytest.mark.parametrize("patience", [0.25, 7.0], ids=["as it is", "control"])
def test_the_first_metrics_of_two_threads_do_not_wait_for_each_other(
    sink: logging.Handler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    """So do two that make the default provider, whose store cannot be used, which is said in the log."""
    monkeypatch.setattr(turns, "PATIENCE", patience)
    (tmp_path / "file").touch()
    monkeypatch.setenv("MPMETRICS_DIR", str(tmp_path / "file"))
    monkeypatch.setattr(mpmetrics.provider_base.default_provider, "_provider", None)

    def make() -> None:
        mpmetrics.Counter("one", "One.").inc()

    assert (patience < 1) == cross(make, mpmetrics.get_provider, sink)


def test_a_new_series_within_a_log_call_of_another_thread_takes_no_time(
    shared: mpmetrics.Provider, sink: logging.Handler, shown: Any
) -> None:
    """Threads that log, with a handler that counts, while others make series and the log's lock is busy: all exact."""
    counting = Counting(shared)
    log.addHandler(counting)
    hits = mpmetrics.Counter("hits", "Hits.", ["code"], provider=shared)
    deadline = time.monotonic() + 1
    done = [0] * 3

    def work(number: int) -> None:
        while time.monotonic() < deadline:
            hits.labels(f"{number}-{done[number] % 1000}").inc()
            if done[number] % 10 == 0:
                log.warning("look")
            done[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
        assert not thread.is_alive()
    log.removeHandler(counting)
    shared.force_flush()

    assert sink.lock is not None
    values = shown(str(shared.directory))
    assert sum(done) == sum(value for (name, _), value in values.items() if name == "hits_total")
    assert counting.records == sum(value for (name, _), value in values.items() if name == "log_records_total")
