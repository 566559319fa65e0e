"""Daemonizing code closes all descriptors: the process counts on, and the files that it opens later stay untouched."""

from __future__ import annotations

import os
import resource
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics
from mpmetrics.storage.reader import SlabReader

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Scrape = Callable[..., dict[str, float]]

CONTENT = b"A" * 20_000


def _close_and_open(home: Path) -> list[Any]:
    """Close all descriptors, and open other files under the same numbers."""
    os.closerange(3, 4096)
    files = []
    for number in range(40):
        file = (home / f"own-{number}").open("wb+", buffering=0)
        file.write(CONTENT)
        files.append(file)
    return files


@pytest.mark.parametrize("counts_before", [False, True])
@pytest.mark.parametrize("forks_twice", [False, True])
def test_a_daemon_counts_on_and_its_files_are_its_own(
    fast_dir: Path,
    store_dir: str,
    provider: Callable[[], Any],
    scrape: Scrape,
    counts_before: bool,  # noqa: FBT001 (a parameter)
    forks_twice: bool,  # noqa: FBT001 (a parameter)
) -> None:
    """A daemon's 3,000 series, which grow its slab, are all shown, and its own files stay unchanged."""
    mine = provider()
    jobs = mpmetrics.Counter("jobs", "x", ["q"], provider=mine)
    jobs.labels("a").inc(5)
    pid = os.fork()
    if pid == 0:
        try:
            if counts_before:
                jobs.labels("a").inc(0)
            if forks_twice:
                child = os.fork()
                if child:
                    os.waitpid(child, 0)
                    os._exit(0)
            files = _close_and_open(fast_dir)
            for number in range(3000):
                jobs.labels(f"b{number}").inc()
            jobs.labels("a").inc(7)
            grandchild = os.fork()
            if grandchild == 0:
                is_open = all(os.fstat(file.fileno()).st_size == len(CONTENT) for file in files)
                jobs.labels("a").inc(100 if is_open else 0)
                os._exit(0)
            os.waitpid(grandchild, 0)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)

    assert {CONTENT} == {path.read_bytes() for path in fast_dir.glob("own-*")}
    found = scrape(store_dir)
    assert 112 == found["jobs_total{q=a}"]
    assert 3000 == sum(found[f"jobs_total{{q=b{number}}}"] for number in range(3000))


def test_a_kept_descriptor_would_write_into_the_daemons_files(fast_dir: Path, provider: Callable[[], Any]) -> None:
    """The control: a record that is written to the number of a slab's descriptor lands in a file of the daemon."""
    mine = provider()
    mpmetrics.Counter("jobs", "x", provider=mine).inc()
    pid = os.fork()
    if pid == 0:
        try:
            kept = os.open(f"{mine.epoch.path}/slab-0", os.O_RDWR)
            files = _close_and_open(fast_dir)
            os.pwrite(kept, b"record", 0)
            del files
        finally:
            os._exit(0)
    os.waitpid(pid, 0)

    assert 1 == sum(path.read_bytes() != CONTENT for path in fast_dir.glob("own-*"))


@pytest.mark.parametrize("keeps", [False, True], ids=["", "control"])
def test_a_reader_needs_no_descriptor_for_each_process(
    keeps: bool,  # noqa: FBT001 (whether it keeps them)
    provider: Callable[[], Any],
    fork: Callable[..., Any],
    gate: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With only 24 descriptors, a reader shows the values of 60 living processes, again and again."""
    mine = provider()
    hits = mpmetrics.Counter("hits", "x", provider=mine)
    ready, leave = gate(), gate()

    def work() -> None:
        hits.inc()
        ready.open()
        leave.wait()

    for _ in range(60):
        fork(work)
    ready.wait(60)
    path = str(mine.directory)

    def read() -> list[Any]:
        collector = mpmetrics.Collector(path)
        number = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (number + 8, number + 8))
        return [(collector.value("hits_total"), collector.value("mpmetrics_unreadable_files")) for _ in range(3)]

    if keeps:
        refresh = SlabReader.refresh
        monkeypatch.setattr(SlabReader, "refresh", lambda self, descriptor: refresh(self, os.dup(descriptor)))
    assert keeps == ([(60.0, 0.0)] * 3 != fork(read).result())
    leave.open(60)


def test_a_dead_process_is_dead_although_its_child_lives(
    store_dir: str, provider: Callable[[], Any], fork: Callable[..., Any], gate: Callable[..., Any], scrape: Scrape
) -> None:
    """Children do not inherit the lease's map, so live gauges disappear with the process that set them."""
    mine = provider()
    busy = mpmetrics.Gauge("busy", "x", multiprocess_mode="livesum", provider=mine)
    ready, leave = gate(), gate()

    def parent() -> None:
        busy.set(1)
        if os.fork() == 0:
            ready.open()
            leave.wait()
            os._exit(0)

    fork(parent).result()
    ready.wait()

    assert 0 == scrape(store_dir).get("busy", 0)
    leave.open()


def test_a_daemons_sockets_are_its_own(provider: Callable[[], Any]) -> None:
    """A process with callbacks listens for collectors, but never on a descriptor that belongs to the daemon."""
    mine = provider()
    mpmetrics.Gauge("size", "x", provider=mine).set_function(lambda: 5)

    def serve() -> None:
        time.sleep(0.3)  # by now its thread listens
        os.closerange(3, 4096)
        servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(16)]
        for server in servers * 2:
            time.sleep(0.1)  # in all longer than the interval at which its thread checks for a new epoch
            server.settimeout(5)
            with socket.create_connection(server.getsockname()):
                time.sleep(0.02)
                server.accept()[0].close()
        mine.shutdown()
        for server in servers:
            os.fstat(server.fileno())
        os._exit(17)

    pid = os.fork()
    if pid == 0:
        try:
            serve()
        finally:
            os._exit(1)
    assert 17 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
