"""What the storage tests share: stores of their own, forked children, and the values that a scrape would show."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import shutil
import signal
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics
from mpmetrics.collector.merge import merge
from mpmetrics.collector.snapshot import EpochReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = float(os.environ.get("MPMETRICS_PATIENCE", "50"))
"""Seconds after which something hangs; never a measure of speed."""


def _ready(descriptor: int, seconds: float) -> bool:
    """Whether there is something to read within so many seconds."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(1000 * seconds))


class Child:
    """A forked child that runs one function and hands its result back; it leaves without any clean-up."""

    def __init__(self, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
        self._reader, writer = os.pipe()
        self._status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._reader)
                outcome: tuple[bool, object]
                try:
                    outcome = (True, function(*arguments))
                except BaseException:  # noqa: BLE001 (reported to the parent, which fails)
                    outcome = (False, traceback.format_exc())
                with os.fdopen(writer, "wb") as stream:
                    pickle.dump(outcome, stream)
            finally:
                os._exit(0)
        os.close(writer)

    def result(self) -> Any:
        """What the function returned; fails with its traceback when it raised."""
        if not _ready(self._reader, PATIENCE):
            pytest.fail("the child gives no answer")
        with os.fdopen(self._reader, "rb", closefd=False) as stream:
            done, value = pickle.load(stream)  # noqa: S301 (our own child's)
        assert done, value
        self.wait()
        return value

    def wait(self) -> int:
        """Its exit code; that of a signal is negative."""
        if self._status is None:
            _, status = os.waitpid(self.pid, 0)
            self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def stop(self, number: int = signal.SIGKILL) -> int:
        """Send it a signal that ends it; returns its exit code."""
        if self._status is None:
            os.kill(self.pid, number)
        return self.wait()

    def close(self) -> None:
        """End it, if it has not."""
        self.stop()
        with contextlib.suppress(OSError):
            os.close(self._reader)


class Gate:
    """Processes wait at it until it is opened, or for one another."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()

    def open(self, count: int = 1) -> None:
        """Let ``count`` waiters through."""
        os.write(self._writer, b"." * count)

    def wait(self, count: int = 1) -> None:
        """Wait for ``count`` openings."""
        for _ in range(count):
            assert _ready(self._reader, PATIENCE), "nobody opened the gate"
            os.read(self._reader, 1)

    @property
    def is_open(self) -> bool:
        """Whether it was opened; takes nothing away."""
        return _ready(self._reader, 0)

    def close(self) -> None:
        """Close its pipe."""
        os.close(self._reader)
        os.close(self._writer)


@pytest.fixture
def fast_dir() -> Iterator[Path]:
    """A fresh directory in memory, where there is such a file system."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = tempfile.mkdtemp(prefix="mpmetrics-test-", dir=base)
    yield Path(path)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def store_dir(fast_dir: Path) -> str:
    """Where a store may be made."""
    return str(fast_dir / "store")


@pytest.fixture
def fork() -> Iterator[Callable[..., Child]]:
    """Runs a function in a forked child; those that are left over are killed."""
    children: list[Child] = []

    def start(function: Callable[..., object], *arguments: object) -> Child:
        children.append(Child(function, arguments))
        return children[-1]

    yield start
    for child in children:
        child.close()


@pytest.fixture
def gate() -> Iterator[Callable[[], Gate]]:
    """Makes gates."""
    gates: list[Gate] = []

    def make() -> Gate:
        gates.append(Gate())
        return gates[-1]

    yield make
    for each in gates:
        each.close()


@pytest.fixture
def provider(store_dir: str) -> Iterator[Callable[[], mpmetrics.Provider]]:
    """Makes providers in the test's store, which are shut down after it."""
    made: list[mpmetrics.Provider] = []

    def make() -> mpmetrics.Provider:
        made.append(mpmetrics.Provider(store_dir))
        return made[-1]

    yield make
    for each in made:
        each.shutdown()


def _flat(readings: list[Any]) -> dict[str, float]:
    values: dict[str, float] = {}
    for reading in readings:
        for suffix, labels, value in reading.samples:
            text = ",".join(f"{name}={label}" for name, label in labels)
            values[reading.name + suffix + (f"{{{text}}}" if labels else "")] = value
    return values


@pytest.fixture
def scrape() -> Callable[[object], dict[str, float]]:
    """What a new collector shows of a store or provider, by ``name{label=value}``; folds the dead first."""

    def collect(source: Any) -> dict[str, float]:
        if isinstance(source, mpmetrics.Collector):
            return _flat(source.readings())
        collector = mpmetrics.Collector(source)
        values = _flat(collector.readings())
        collector.close()
        return values

    return collect


@pytest.fixture
def peek() -> Callable[[str], dict[str, float]]:
    """What a reader that never folds sees of an epoch, by ``name{label=value}``."""

    def read(path: str) -> dict[str, float]:
        reader = EpochReader(path)
        try:
            return _flat(merge(reader.snapshot()))
        finally:
            reader.close()

    return read


@pytest.fixture
def slabs() -> Callable[[str], list[str]]:
    """The names of an epoch's slab files."""

    def names(path: str) -> list[str]:
        return sorted(name for name in os.listdir(path) if name.startswith("slab-"))

    return names
