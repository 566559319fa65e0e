"""Series that wait for room, series that move into a slab, and processes that begin anew."""

from __future__ import annotations

from typing import Any

import pytest

from mpmetrics._cells.arithmetic import sketch_record
from mpmetrics.storage import format as fmt


def test_a_series_without_room_waits(owner: Any) -> None:
    """A series without room counts in private memory; the owner moves it into the slab once there is room."""
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
    """Series also wait when there is no slab, or when their metric could not be declared in it."""
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
    """Series move from a slab in memory into one in a file, with their values; ended series do not move."""
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


def test_a_moved_series_has_the_last_applied_generation(owner: Any) -> None:
    """A removal that the owner has not applied yet ends a series, even if the series moves after the removal."""
    generation = owner.watch()
    owner.fill()
    sizes = owner.metric("SketchCell")
    cell = sizes.make(("a",))
    generation[3] = 5
    owner.give_room()
    sizes.move(cell)

    assert 0 == owner.series()[cell.place].generation


def test_series_bind_again_after_a_new_beginning(owner: Any, distribution: Any) -> None:
    """Under a new token, series get words in the new slab at their next write, and start at zero."""
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


def test_only_a_write_makes_a_process_count(owner: Any) -> None:
    """A look-up makes the process begin; only a write gives it an ordinal."""
    cell = owner.metric().make(("a",))
    process = owner.process
    assert (process.token, 0) == (process.begun, process.counting)
    assert 1 == len(owner.series())
    cell.inc()

    assert process.token == process.counting
    assert [1.0] == cell.values()
