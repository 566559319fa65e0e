"""Workers with callbacks on one store, and scrapes of them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mpmetrics import Collector, Provider
from mpmetrics.serving.worker_socket import list_workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 30.0
"""Seconds after which a wait fails the test; never a measure of speed."""


def wait_until(is_so: Callable[[], object]) -> None:
    """Wait for something that another process or thread is about to do."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.005)


@pytest.fixture(name="wait_until")
def _wait_until() -> Callable[[Callable[[], object]], None]:
    """Wait for something that another process or thread is about to do."""
    return wait_until


@pytest.fixture
def listening() -> Callable[[Provider], None]:
    """Wait until this process answers collectors. A worker calls it at the end of its work."""

    def wait(provider: Provider) -> None:
        def is_listening() -> bool:
            own, epoch = provider.memory.slab_name, provider.epoch
            return bool(own and epoch and own.identity in {name.identity for name in list_workers(epoch.path)})

        wait_until(is_listening)

    return wait


@pytest.fixture
def stopped() -> Iterator[Callable[[int], None]]:
    """Stop a process, and wait until it is stopped; at the end of the test, all stopped processes continue."""
    held: list[int] = []

    def stop(pid: int) -> None:
        held.append(pid)
        os.kill(pid, signal.SIGSTOP)
        stat = Path(f"/proc/{pid}/stat")
        wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")

    yield stop
    for pid in held:
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:  # the test has ended it
            continue


@pytest.fixture
def collector(shared: Provider) -> Iterator[Collector]:
    """A collector of the store alone, with a long worker_timeout, since the machine may be busy."""
    assert shared.directory is not None
    made = Collector(shared.directory, worker_timeout=5)
    yield made
    made.close()


def scraped(source: Any) -> dict[str, float]:
    """Scrape ``source``: values by name and labels, as the text has them, without the labels of the scope."""
    collector = source if isinstance(source, Collector) else Collector(source)
    found = {}
    for line in collector.render()[1].decode().splitlines():
        name, _, value = line.rpartition(" ")
        for scope in ('otel_scope_name="test",', ',otel_scope_name="test"', '{otel_scope_name="test"}'):
            name = name.replace(scope, "")
        if not line.startswith("#"):
            found[name] = float(value)
    return found


@pytest.fixture
def scrape() -> Callable[[Any], dict[str, float]]:
    """Scrape a collector, or what a collector can be made of."""
    return scraped


@pytest.fixture
def seen() -> Callable[[Any], dict[str, float]]:
    """Scrape, and leave out the self-metrics."""

    def take(source: Any) -> dict[str, float]:
        return {name: value for name, value in scraped(source).items() if not name.startswith("mpmetrics_")}

    return take
