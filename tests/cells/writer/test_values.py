"""What the operations of each kind of cell mean."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest

from mpmetrics._cells.arithmetic import is_set


def test_times_grow_whatever_the_clock_does(owner: Any) -> None:
    """The value that a process set last has the latest time, over all its series, with any clock."""
    owner.process.time_offset = 1 << 62  # so far ahead that the clock says nothing
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


def test_what_was_taken_back(owner: Any) -> None:
    """A gauge is as if it had never been set, and can be set again."""
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


def test_a_gauge_that_was_set_to_zero_is_told_from_one_that_was_not(owner: Any) -> None:
    """Zero, by setting or by arithmetic, is stored as minus zero; untouched words are all zero bits."""
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
    """A negative amount, or none, is refused before anything is changed, and leaves the cell usable."""
    counter, _, _ = owner.cells()
    counter.inc(2)

    with pytest.raises(ValueError, match="'it' can only go up"):
        counter.inc(amount)

    counter.inc()
    assert [3.0] == counter.values()


def test_an_observation_that_is_no_number_is_refused(owner: Any) -> None:
    """NaN belongs to no bucket: it is refused before anything is changed."""
    _, _, sizes = owner.cells()
    sizes.observe(1.5)
    before = sizes.values()

    with pytest.raises(ValueError, match="'it' cannot observe nan, which is not a number"):
        sizes.observe(math.nan)

    assert before == sizes.values()
    sizes.observe(1.0)
    assert [1, 1, 0] == sizes.values()[2:]


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e151, -1e151])
def test_a_sketch_takes_numbers(value: float, owner: Any) -> None:
    """What has no square that is a number is refused before anything is changed."""
    cell = owner.metric("SketchCell").make(("a",))

    with pytest.raises(ValueError, match="'it' cannot count"):
        cell.update(value)

    assert not any(cell.values())


def test_a_bound_belongs_to_its_bucket(owner: Any) -> None:
    """Buckets hold what is less than or equal to their bound."""
    _, _, sizes = owner.cells()
    for value in (1.0, 1.0000001, 2.0, 2.5, math.inf, -5):
        sizes.observe(value)

    assert [2, 2, 2] == sizes.values()[2:]
