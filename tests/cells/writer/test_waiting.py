"""Series that wait for room, series that move, and processes that begin anew."""

from __future__ import annotations

from typing import Any

import pytest

from mpmetrics._cells.arithmetic import sketch_record
from mpmetrics.storage import format as fmt


def test_what_has_no_room_waits(owner: Any) -> None:
    """It has memory of its own, the owner is told, and it goes to the slab with its value once there is room."""
    owner.fill()
    sizes = owner.metric("SketchCell")
    cell = sizes.make(("a",))
    for value in (0.5, -2.0, 3.0):
        cell.update(value)

    assert ([cell], None, {}) == (owner.waiting, cell.place, owner.series())
    assert sizes.move(cell) is False
    owner.give_room()
    before = cell.values()
    assert sizes.move(cell) is True
    assert (512, before) == (cell.place, cell.values())
    cell.update(4.0)
    assert (5.5, 4.0) == (sketch_record(cell.values())[0], sketch_record(cell.values())[5])
    assert sizes.move(cell) is True
    assert {512: ("a",)} == {first: series.key for first, series in owner.series().items()}


@pytest.mark.parametrize("reason", ["slab", "number"])
def test_other_reasons_to_wait(owner: Any, reason: str) -> None:
    """Without a slab, or with a metric that could not be declared there, series wait as well."""
    metric = owner.metric()
    owner.begin(counting=True)
    if reason == "slab":
        slab, owner.process.slab = owner.process.slab, None
    else:
        metric.stamp, metric.number = owner.process.token, -1
    cell = metric.make(("a",))
    cell.inc(3)
    assert ([cell], None) == (owner.waiting, cell.place)
    assert metric.move(cell) is False
    if reason == "slab":
        owner.process.slab = slab
    else:
        metric.number = 0

    assert metric.move(cell) is True
    cell.inc()
    assert 4 == owner.words[cell.place]


def test_moving_to_another_slab(owner: Any, distribution: Any) -> None:
    """Series of a slab in memory go to the file's, with their values; what was removed goes nowhere."""
    sizes = owner.metric("DistributionCell")
    cell, gone = sizes.make(("a",)), sizes.make(("b",))
    cell.observe(1.5)
    owner.renew_slab()
    assert cell.place is None
    sizes.end(("b",))

    assert sizes.move(cell) is True
    assert sizes.move(gone) is True
    cell.observe(0.5)
    assert (2.0, 1, 1, 0) == distribution(owner.words[cell.place : cell.place + 5])
    assert {512: ("a",)} == {first: series.key for first, series in owner.series().items()}


def test_a_series_that_moves_is_as_old_as_what_was_taken_in(owner: Any) -> None:
    """A removal that its owner has not noticed yet ends it, though it was moved in after that."""
    generation = owner.watch()
    owner.fill()
    sizes = owner.metric("SketchCell")
    cell = sizes.make(("a",))
    generation[3] = 5
    owner.give_room()
    sizes.move(cell)

    assert 0 == owner.series()[cell.place].generation


def test_a_beginning_anew(owner: Any, distribution: Any) -> None:
    """Under another token, series bind themselves in the new slab at their next write, at zero."""
    counter, gauge, sizes = owner.cells()
    for _ in range(3):
        counter.inc()
        gauge.inc()
        sizes.observe(1.5)
    before = memoryview(owner.map).tobytes()[: fmt.FIRST_WORDS_END]
    held = owner.map
    owner.renew()
    owner.process.counting = owner.process.token
    counter.inc(5)
    sizes.observe(0.5)

    assert before == memoryview(held).tobytes()[: fmt.FIRST_WORDS_END]
    assert ([5.0], (0.5, 1, 0, 0)) == (counter.values(), distribution(sizes.values()))
    assert gauge.place is None
    assert 2 == len(owner.series())


def test_idle_until_the_first_write(owner: Any) -> None:
    """A look-up has the process begin; only a write has it count."""
    cell = owner.metric().make(("a",))
    process = owner.process
    assert (process.token, 0) == (process.begun, process.counting)
    assert 1 == len(owner.series())
    cell.inc()

    assert process.token == process.counting
    assert [1.0] == cell.values()
