"""Fixtures of the storage tests: a store for each test, and the values that a scrape shows."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import mpmetrics
from mpmetrics.collector.epoch_reader import EpochReader
from mpmetrics.collector.merge import merge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def fast_dir() -> Iterator[Path]:
    """A fresh directory, on a file system in memory if the machine has one."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = tempfile.mkdtemp(prefix="mpmetrics-test-", dir=base)
    yield Path(path)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def store_dir(fast_dir: Path) -> str:
    """A path at which a test can create a store."""
    return str(fast_dir / "store")


@pytest.fixture
def provider(store_dir: str) -> Iterator[Callable[[], mpmetrics.Provider]]:
    """Makes providers in the test's store, and shuts them down after the test."""
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
    """The values that a new collector shows, by ``name{label=value}``; it folds dead slabs first."""

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
    """The values that a reader shows of an epoch, by ``name{label=value}``, without folding."""

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
