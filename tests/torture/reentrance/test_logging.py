"""Log handlers that use metrics, and threads that hold a log handler's lock while they declare metrics."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics
from mpmetrics import turns
from mpmetrics.log_once import LogOnce, LogOnceUnlocked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger("mpmetrics")

HANGS = 60.0
"""Seconds after which a thread hangs; never a measure of speed."""


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
    """A log handler that makes series for a warning of the library is called once, not again within itself."""
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


def cross(
    make: Callable[[], object],
    declare: Callable[[], object],
    handler: logging.Handler,
    given_up: threading.Event | None = None,
) -> bool:
    """Whether two threads come to an end: one is in ``make`` and logs, the other has the handler's lock and declares.

    The second thread takes the handler's lock before the first one logs, and declares once the first is about to log.
    For a control, in which the threads wait for each other until ``given_up`` is set, half a second shows that.
    """
    logs, has_lock = threading.Event(), threading.Event()

    class Announcing(logging.Filter):
        def filter(self, _record: logging.LogRecord) -> bool:
            if threading.current_thread() is first:
                logs.set()
                has_lock.wait(HANGS)
            return True

    def second() -> None:
        with handler.lock or threading.Lock():
            has_lock.set()
            assert logs.wait(HANGS)
            declare()

    announcing = Announcing()
    log.addFilter(announcing)
    first = threading.Thread(target=make, daemon=True)
    other = threading.Thread(target=second, daemon=True)
    other.start()
    assert has_lock.wait(HANGS)
    first.start()
    deadline = time.monotonic() + (0.5 if given_up else HANGS)
    for thread in (first, other):
        thread.join(max(0, deadline - time.monotonic()))
    alive = first.is_alive() or other.is_alive()
    if given_up:
        given_up.set()
    for thread in (first, other):
        thread.join(HANGS)
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


class EndlessLock:
    """For the control: a lock for which threads wait until ``given_up`` is set."""

    def __init__(self, given_up: threading.Event) -> None:
        self._lock = threading.RLock()
        self._given_up = given_up

    def __enter__(self) -> None:
        while not self._lock.acquire(timeout=0.01) and not self._given_up.is_set():
            pass

    def __exit__(self, *_: object) -> None:
        if self._is_owned():
            self._lock.release()

    def _is_owned(self) -> bool:
        return self._lock._is_owned()  # type: ignore[attr-defined]


@pytest.mark.parametrize("is_naive", [False, True], ids=["as it is", "control"])
def test_a_thread_that_declares_in_a_log_handler_does_not_wait_for_one_that_declares_and_logs(
    shared: mpmetrics.Provider, sink: logging.Handler, monkeypatch: pytest.MonkeyPatch, *, is_naive: bool
) -> None:
    """Two threads that want each other's lock go on: one has the store's lock, the other a log handler's.

    The control logs while it holds the store's lock: then neither thread goes on.
    """
    given_up = threading.Event()
    if is_naive:
        monkeypatch.setattr(LogOnceUnlocked, "_emit", LogOnce._emit)  # logs at once, under the lock
        monkeypatch.setattr(LogOnceUnlocked, "lock", EndlessLock(given_up))

    def make() -> None:
        mpmetrics.Counter("one", "One.", provider=shared).inc()

    def declare() -> None:
        mpmetrics.Counter("other", "Other.", provider=shared).inc()

    with unusable(shared):
        assert is_naive != cross(make, declare, sink, given_up if is_naive else None)


@pytest.mark.parametrize("is_endless", [False, True], ids=["as it is", "control"])
def test_the_first_metrics_of_two_threads_do_not_wait_for_each_other(
    sink: logging.Handler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_endless: bool
) -> None:
    """Two threads that make the default provider go on; its store cannot be used, which is logged.

    In the control time stands still, so the wait for a turn never ends: then neither thread goes on.
    """
    given_up = threading.Event()
    if is_endless:
        still = SimpleNamespace(monotonic=lambda: 100.0 * given_up.is_set(), sleep=time.sleep)
        monkeypatch.setattr(turns, "time", still)
    (tmp_path / "file").touch()
    monkeypatch.setenv("MPMETRICS_DIR", str(tmp_path / "file"))
    monkeypatch.setattr(mpmetrics.provider_base.default_provider, "_provider", None)

    def make() -> None:
        mpmetrics.Counter("one", "One.").inc()

    assert is_endless != cross(make, mpmetrics.get_provider, sink, given_up if is_endless else None)


def test_threads_that_log_while_others_make_series_are_exact(
    shared: mpmetrics.Provider, sink: logging.Handler, shown: Any
) -> None:
    """Counts are exact of threads that make series and log, while a log handler counts as well."""
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
        thread.join(HANGS)
        assert not thread.is_alive()
    log.removeHandler(counting)
    shared.force_flush()

    assert sink.lock is not None
    values = shown(str(shared.directory))
    assert sum(done) == sum(value for (name, _), value in values.items() if name == "hits_total")
    assert counting.records == sum(value for (name, _), value in values.items() if name == "log_records_total")
