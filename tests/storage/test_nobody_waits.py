"""No request waits for another process, not even for one that is stopped while it holds every lock."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics
from mpmetrics.storage.locks import Mutex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Scrape = Callable[..., dict[str, float]]


def _locks(store: str) -> list[Path]:
    """All files of the store that a process may lock during an operation."""
    return [path for path in Path(store).rglob("*") if path.name == "lock" or path.name.endswith(".lock")]


@pytest.fixture
def hog(store_dir: str) -> Iterator[Callable[[], None]]:
    """Starts a process that takes every lock of the store, and stops it."""
    pids: list[int] = []

    def start() -> None:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            for path in _locks(store_dir):
                fcntl.flock(os.open(path, os.O_RDWR), fcntl.LOCK_EX)
            os.write(writer, b"x")
            time.sleep(1000)
        pids.append(pid)
        os.read(reader, 1)
        os.kill(pid, signal.SIGSTOP)
        os.close(reader)
        os.close(writer)

    yield start
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.timeout(20)
def test_processes_start_count_fork_and_end_beside_a_stopped_lock_holder(
    store_dir: str, provider: Callable[[], Any], fork: Callable[..., Any], scrape: Scrape, hog: Callable[[], None]
) -> None:
    """Declarations, first uses, first writes, forks and exits succeed without waiting, and all values are shown."""
    mine = provider()
    hits = mpmetrics.Counter("hits", "x", ["who"], provider=mine)
    hits.labels("before").inc()
    hog()
    with pytest.raises(mpmetrics.LockTimeoutError):  # the other process holds the locks
        Mutex(f"{mine.epoch.path}/removals.lock", 0.0).__enter__()

    hits.labels("after").inc()
    mpmetrics.Histogram("took", "x", provider=mine).observe(1)
    fork(hits.labels("child").inc).result()

    def join() -> None:
        other = mpmetrics.Provider(store_dir)
        mpmetrics.Counter("hits", "x", ["who"], provider=other).labels("guest").inc()
        other.shutdown()

    fork(join).result()
    found = scrape(store_dir)
    assert [1, 1, 1, 1, 1] == [
        *(found[f"hits_total{{who={who}}}"] for who in ("before", "after", "child", "guest")),
        found["took_count"],
    ]


@pytest.mark.timeout(20)
def test_a_removal_raises_while_another_process_holds_the_lock(
    provider: Callable[[], Any], scrape: Scrape, hog: Callable[[], None]
) -> None:
    """A removal is the only operation that waits; after a moment it raises, and nothing is removed."""
    mine = provider()
    hits = mpmetrics.Counter("hits", "x", ["who"], provider=mine)
    hits.labels("a").inc(3)
    hog()

    with pytest.raises(mpmetrics.LockTimeoutError, match="is one stopped"):
        hits.remove("a")
    hits.labels("a").inc()

    assert 4 == scrape(mine)["hits_total{who=a}"]
