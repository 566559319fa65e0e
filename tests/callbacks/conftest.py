"""Scrapes of a provider, by name and labels, for tests of observable instruments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mpmetrics import Collector

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def samples(source: Any) -> dict[str, float]:
    """Scrape ``source``: values by name and labels, as the text has them, without the labels of the scope."""
    collector = source if isinstance(source, Collector) else Collector(source)
    lines = collector.render()[1].decode().splitlines()
    shown = {}
    for line in lines:
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            for scope in ('otel_scope_name="test",', ',otel_scope_name="test"', '{otel_scope_name="test"}'):
                name = name.replace(scope, "")
            shown[name] = float(value)
    return shown


@pytest.fixture
def scrape() -> Callable[[Any], dict[str, float]]:
    """Scrape a collector, or what a collector can be made of."""
    return samples


@pytest.fixture
def seen() -> Callable[[Any], dict[str, float]]:
    """Scrape, and leave out the self-metrics."""

    def take(source: Any) -> dict[str, float]:
        return {name: value for name, value in samples(source).items() if not name.startswith("mpmetrics_")}

    return take
