"""The operations of each class of cells."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest

from mpmetrics._cells.arithmetic import is_set


def test_times_grow_whatever_the_clock_does(owner: Any) -> None:
    """A process's last set value has the latest time of all its series, whatever the clock does."""
    owner.process.time_offset = 1 << 62  # so large that the clock does not matter
    metric = owner.metric("RecentCell")
    one, two = metric.make(("a",)), metric.make(("b",))
    moments = []
    for value in range(1, 6):
        for cell in (one, two):
            cell.set(value)
            assert value == owner.latest(cell.place)[0]
            moments.append(owner.latest(cell.place)[1])
    owner.process.time_offset = 0
    one.set(9)

    assert sorted(set(moments)) == moments
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    assert now - 10**10 < owner.latest(one.place)[1] <= now


def test_an_unset_gauge_counts_as_never_set(owner: Any) -> None:
    """After unset() a gauge is as if never set, and can be set again."""
    gauge, recent = owner.metric("GaugeCell").make(("a",)), owner.metric("RecentCell").make(("a",))
    for _ in range(2):
        gauge.set(0)
        recent.set(5)
        assert is_set(gauge.values()[0])
        assert 5 == owner.latest(recent.place)[0]
        gauge.unset()
        recent.unset()
        assert not is_set(gauge.values()[0])
        assert 0 == owner.latest(recent.place)[1]


def test_a_gauge_set_to_zero_differs_from_an_unset_one(owner: Any) -> None:
    """Zero, set or computed, is stored as -0.0; the bits of an unset gauge are all zero."""
    _, gauge, _ = owner.cells()
    assert not is_set(gauge.values()[0])
    gauge.set(0)
    assert is_set(gauge.values()[0])
    gauge.inc(2)
    gauge.dec(2)
    assert is_set(gauge.values()[0])
    assert [0.0] == gauge.values()


@pytest.mark.parametrize("amount", [-1, -0.001, math.nan, -math.inf])
def test_a_counter_goes_up_only(amount: float, owner: Any) -> None:
    """A negative amount or NaN raises ValueError, changes nothing, and leaves the cell usable."""
    counter, _, _ = owner.cells()
    counter.inc(2)

    with pytest.raises(ValueError, match="'it' can only go up"):
        counter.inc(amount)

    counter.inc()
    assert [3.0] == counter.values()


def test_an_observation_that_is_no_number_is_refused(owner: Any) -> None:
    """NaN belongs to no bucket: it raises ValueError and changes nothing."""
    _, _, sizes = owner.cells()
    sizes.observe(1.5)
    before = sizes.values()

    with pytest.raises(ValueError, match="'it' cannot observe nan, which is not a number"):
        sizes.observe(math.nan)

    assert before == sizes.values()
    sizes.observe(1.0)
    assert [1, 1, 0] == sizes.values()[2:]


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e151, -1e151])
def test_a_sketch_refuses_values_without_a_finite_square(value: float, owner: Any) -> None:
    """A value whose square is not finite raises ValueError and changes nothing."""
    cell = owner.metric("SketchCell").make(("a",))

    with pytest.raises(ValueError, match="'it' cannot count"):
        cell.update(value)

    assert not any(cell.values())


def test_a_bound_belongs_to_its_bucket(owner: Any) -> None:
    """A bucket counts the values up to its bound, the bound included."""
    _, _, sizes = owner.cells()
    for value in (1.0, 1.0000001, 2.0, 2.5, math.inf, -5):
        sizes.observe(value)

    assert [2, 2, 2] == sizes.values()[2:]
