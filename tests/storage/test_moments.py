"""What happens between two looks: records that come while a store is opened, values that move while it is read."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import mpmetrics
from mpmetrics.storage import segments
from mpmetrics.storage.bindings import Bindings
from mpmetrics.storage.catalog import Catalog, Family
from mpmetrics.storage.locks import AppendLock
from mpmetrics.storage.reader import SeriesReader

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest


def test_records_that_come_while_a_store_is_opened_are_no_damage(
    provider: Callable[[], mpmetrics.Provider], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that parses what there was when it began, while a writer goes on, finds nothing wrong."""
    mine = provider()
    hits = mpmetrics.Counter("hits", "Hits.", ["n"], provider=mine)
    hits.labels(0).inc()
    read_to = SeriesReader._read_to

    def late(self: SeriesReader, end: int) -> int:
        sound = read_to(self, end)
        for _ in range(3):
            hits.labels(os.urandom(4).hex()).inc()
        return sound

    monkeypatch.setattr(SeriesReader, "_read_to", late)
    assert mine.epoch is not None
    reader = SeriesReader(mine.epoch.path)
    reader.sync()
    assert (0, []) == (reader.catalog.damaged, list(reader.catalog.problems))
    monkeypatch.setattr(SeriesReader, "_read_to", read_to)
    reader.sync()
    assert 4 == len(reader.catalog.by_slot)
    reader.close()


def test_values_that_move_in_while_they_are_collected_never_go_missing(
    store_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Private values move in one after the other, for longer than a collection takes: each scrape has all of them."""
    mine = mpmetrics.Provider(store_dir)
    hits = mpmetrics.Counter("hits", "Hits.", ["n"], provider=mine)
    assert mine.epoch is not None
    other = AppendLock(f"{mine.epoch.path}/series.lock", lambda: 0)
    monkeypatch.setattr("mpmetrics.storage.directory.LOCK_TIMEOUT", 0.01)
    assert other.acquire(0.0)
    for number in range(300):
        hits.labels(number).inc()
    copy = segments.copy_words
    collector = mpmetrics.Collector(mine)
    found: list[float] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            readings = {reading.name: reading for reading in collector.readings()}
            found.append(sum(sample.value for sample in readings["hits"].samples if sample.suffix == "_total"))

    def slowly(*arguments: Any) -> None:
        done.wait(0.001)
        copy(*arguments)

    monkeypatch.setattr("mpmetrics.storage.memory.copy_words", slowly)
    looking = threading.Thread(target=look)
    looking.start()
    other.release()
    monkeypatch.setattr("mpmetrics.storage.directory.LOCK_TIMEOUT", 0.5)
    try:
        while any(mine.memory.private_values()):
            mine.force_flush()
    finally:
        done.set()
        looking.join()

    assert {300.0} == set(found)
    mine.shutdown()


def test_a_metric_that_is_declared_within_another_ones_declaration() -> None:
    """A signal handler that declares one at any step of a declaration: both are there, each as what it is."""
    for step in ("setdefault", "take", "family"):
        bindings = Bindings()
        inner = Family("inner", "gauge", "Inner.", mode="max", origin="here")
        outer = Family("outer", "counter", "Outer.", origin="there")
        interrupted = _Interrupted(bindings, inner, step)
        bindings.declared = interrupted
        bindings.declare(outer)
        assert (outer, inner) == (bindings.family("outer"), bindings.family("inner")), step
        assert 2 == len(interrupted.families) == len(set(interrupted.numbers.values()))


class _Interrupted(Catalog):
    """A catalog in whose first declaration another one comes in between."""

    def __init__(self, bindings: Bindings, inner: Family, step: str) -> None:
        super().__init__()
        self._bindings, self._inner, self._step, self._is_done = bindings, inner, step, False

    def _interrupt(self, step: str) -> None:
        if step == self._step and not self._is_done:
            self._is_done = True
            self._bindings.declare(self._inner)

    def check(self, family: Family) -> int | None:
        number = super().check(family)
        self._interrupt("setdefault")
        return number

    def take(self, kind: int, body: list[Any]) -> None:
        self._interrupt("take")
        super().take(kind, body)

    def _family(self, number: int, values: dict[str, Any]) -> None:
        self._interrupt("family")
        super()._family(number, values)


def test_a_greenlet_that_waits_is_not_robbed(fast_dir: Path) -> None:
    """While one waits for another process, a second one of the same thread is refused; afterwards nobody has it."""
    path = str(fast_dir / "lock")
    other, lock = AppendLock(path, lambda: 0), AppendLock(path, lambda: 0)
    assert other.acquire(0.0)
    seen: list[bool] = []

    def pause(_: float) -> None:
        seen.append(lock.acquire(0.0))  # another greenlet, which time.sleep lets run
        other.release()

    import mpmetrics.storage.locks as module  # noqa: PLC0415

    sleep, module.time.sleep = module.time.sleep, pause  # type: ignore[attr-defined]
    try:
        assert lock.acquire(1.0)
    finally:
        module.time.sleep = sleep  # type: ignore[attr-defined]
    assert [False] == seen
    lock.release()
    assert other.acquire(0.0)
    other.release()


def test_a_lock_that_changed_hands_is_not_taken_away(fast_dir: Path) -> None:
    """However many threads take turns, and none waits: the lock is never taken for abandoned."""
    lock = AppendLock(str(fast_dir / "lock"), lambda: 0)
    forgotten: list[None] = []
    lock.forget = lambda: forgotten.append(None)  # type: ignore[method-assign]
    inside, wrong = [0], [0]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def use() -> None:
        for _ in range(2000):
            lock._hopeless_until = time.monotonic() + 1.0
            if lock.acquire(0.5):
                inside[0] += 1
                wrong[0] += inside[0] != 1
                inside[0] -= 1
                lock.release()

    threads = [threading.Thread(target=use) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    assert ([], 0) == (forgotten, wrong[0])
    lock.close()


def test_a_lock_whose_file_was_removed_is_the_new_files(fast_dir: Path) -> None:
    """Who has the removed file open and who comes later exclude each other; without a directory the old one will do."""
    (fast_dir / "epoch").mkdir()
    path = fast_dir / "epoch" / "lock"
    old = AppendLock(str(path), lambda: 0)
    assert old.acquire(0.0)
    old.release()
    path.unlink()
    new = AppendLock(str(path), lambda: 0)
    assert new.acquire(0.0)
    assert not old.acquire(0.01)
    new.release()
    old._hopeless_until = 0.0
    assert old.acquire(0.0)
    assert not new.acquire(0.01)
    old.release()
    shutil.rmtree(fast_dir / "epoch")
    assert old.acquire(1.0)
    old.release()
    old.close()
    new.close()
