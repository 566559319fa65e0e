"""Ended series: their words, their records, and removals during a first use."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from typing import Any

import pytest

from mpmetrics._cells import attempt as pure_attempt
from mpmetrics.storage import format as fmt


def test_an_ended_series_makes_room_for_another(owner: Any) -> None:
    """An END is written, then the words are zeroed and reused; writes to the ended cell have no effect."""
    metric, sizes = owner.metric(), owner.metric("DistributionCell")
    cell, other = metric.make(("a",)), sizes.make(("b",))
    cell.inc(5)
    other.observe(1.5)

    assert metric.end(("a",)) is True
    assert (True, None, None) == (cell.gone, cell.place, metric.get(("a",)))
    assert [0.0] == cell.values()
    cell.inc()
    again = metric.make(("c",))
    assert (512, [0.0]) == (again.place, again.values())
    cell.inc()
    assert ([0.0], [2.0]) == (again.values(), cell.values())
    sizes.end(("b",))
    assert 513 == sizes.make(("d",)).place
    assert {512: ("c",), 513: ("d",)} == {first: series.key for first, series in owner.series().items()}
    assert metric.end(("a",)) is True


def test_words_are_reused_only_after_the_end_record(twin: Any, owners: Any) -> None:
    """At any moment, a reader finds each series with its own value, or sees that it ended or has just begun."""
    owner = owners(twin, room=1 << 20)
    metric = owner.metric()
    owner.begin(counting=True)
    is_over, wrong = [], []

    def read() -> None:
        words = owner.words
        while not is_over:
            before = owner.series()
            values = {first: words[first] for first in before}
            after = owner.series()
            wrong.extend(
                (series, values[first])
                for first, series in before.items()
                if after.get(first) == series and values[first] not in (0.0, float(series.key[0]))
            )

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 4000):
        metric.make((str(number),)).inc(number)
        metric.end((str(number),))
    is_over.append(None)
    reader.join()

    assert not wrong


def test_a_million_series_that_come_and_go_take_no_more_room(twin: Any, owners: Any) -> None:
    """Words are reused and garbage records are dropped, so the slab does not grow."""
    owner = owners(twin)
    metric, count = owner.metric(), 20_000 if twin.name == "pure" else 1_000_000
    metric.make(("kept",)).inc(3)
    for number in range(count):
        metric.make((str(number % 7),)).inc()
        metric.end((str(number % 7),))

    head = owner.head
    assert fmt.FIRST_WORDS_END == head[fmt.WORDS_END]
    assert max(head[fmt.ROOM], head[fmt.ROOM + 1]) < 200_000
    assert head[fmt.FLIPS] > 5
    assert {512: ("kept",)} == {first: series.key for first, series in owner.series().items()}
    assert 3 == owner.words[512]


def test_a_flip_keeps_what_is_needed(owner: Any) -> None:
    """A flip copies only metrics and living series to the other area; without room there, nothing changes."""
    metric, sizes = owner.metric(), owner.metric("DistributionCell")
    owner.begin(counting=True)
    held, head = owner.process.slab, owner.head
    head[fmt.ROOM] = 1 << 20
    assert held.append(fmt.FAMILY, b"family")
    assert held.append(77, b"of a later version")
    for number in range(100):
        metric.make((str(number),)).inc(number)
        sizes.make((str(number),)).observe(number)
    for number in range(0, 100, 3):
        metric.end((str(number),))
    before = owner.series()

    assert held.flip() is False
    assert (0, before) == (head[fmt.FLIPS], owner.series())
    head[fmt.ROOM + 1] = 1 << 20
    assert held.flip() is True
    assert (1, before) == (head[fmt.FLIPS], owner.series())
    assert head[fmt.COMMITTED + 1] < head[fmt.COMMITTED]
    metric.make(("more",)).inc(5)
    metric.end(("1",))
    assert held.flip() is True
    assert len(before) == len(owner.series())
    assert all(cell.values() == [float(key[0])] for key, cell in metric.items() if key != ("more",))


def test_a_flip_needs_enough_garbage(owner: Any) -> None:
    """A flip is due when more than half of the records, and more than 64 KiB, are garbage."""
    metric = owner.metric()
    owner.begin(counting=True)
    held, head = owner.process.slab, owner.head
    head[fmt.ROOM] = 1 << 20
    head[fmt.WORDS_END] = 1 << 20
    ended = 0
    for number in range(2000):
        metric.make((f"{number:04}",))
    while not held.needs_flip:
        metric.end((f"{ended:04}",))
        ended += 1

    garbage = ended * (56 + 24)
    assert 64 << 10 < garbage <= (64 << 10) + 80 or 2 * (garbage - 80) <= head[fmt.COMMITTED] - 24 < 2 * garbage


def test_a_series_ends_without_room_for_its_end_record(owner: Any) -> None:
    """Without room for the END the series still ends here, and its words stay unused; readers use its generation."""
    metric = owner.metric()
    cell = metric.make(("a",))
    cell.inc(5)
    owner.fill()
    owner.head[fmt.ROOM] = owner.head[fmt.COMMITTED]

    assert metric.end(("a",)) is False
    assert (True, None) == (cell.gone, metric.get(("a",)))
    owner.give_room()
    again = metric.make(("a",))
    assert 513 == again.place
    cell.inc()
    assert (5.0, 0.0) == (owner.words[512], owner.words[513])


def test_a_removal_during_a_first_use_is_applied(twin: Any, owners: Any) -> None:
    """A first use that finds a new generation after its commit applies the removal before it returns.

    While another process removes as fast as it can, each returned series exists.
    """
    owner = owners(twin)
    generation = owner.watch()
    metric = owner.metric(limit=1 << 30, budget=1 << 40)
    remade = []

    def catch_up() -> None:
        now = owner.process.generation
        for key in metric.keys()[-1:]:
            remade.append(key)
            metric.end(key)
        owner.process.seen = now

    owner.catch_up = catch_up
    pid = os.fork()
    if not pid:
        while True:
            generation[3] += 1
            for _ in range(random.randrange(300)):
                pass
    try:
        deadline, number = time.monotonic() + 40, 0
        while len(remade) < 3 and time.monotonic() < deadline:
            number += 1
            cell = metric.make((str(number),))
            assert not cell.gone
            if number % 50 == 0:
                assert owner.series()[cell.place].generation <= generation[3]
            metric.end((str(number),))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    assert len(remade) >= 3


@pytest.mark.parametrize("is_ended", [False, True])
def test_a_removal_between_record_and_return(
    pure_twin: Any, owners: Any, monkeypatch: pytest.MonkeyPatch, *, is_ended: bool
) -> None:
    """The generation changes right after the commit: the series is made anew only if the removal matches it."""
    owner = owners(pure_twin)
    generation = owner.watch()
    metric = owner.metric()
    owner.begin(counting=True)
    lock = threading.Lock

    def fence() -> Any:
        monkeypatch.setattr(pure_attempt, "allocate_lock", lock)
        generation[3] += 1
        return lock()

    def catch_up() -> None:
        owner.process.seen = owner.process.generation
        if is_ended:
            metric.end(("a",))

    owner.catch_up = catch_up
    monkeypatch.setattr(pure_attempt, "allocate_lock", fence)
    cell = metric.make(("a",))

    assert not cell.gone
    assert cell is metric.get(("a",))
    assert [int(is_ended)] == [series.generation for series in owner.series().values()]


def test_removals_are_applied_before_a_series_is_made(owner: Any) -> None:
    """A new generation is applied first; if that fails, the first use does not retry it for ever."""
    generation = owner.watch()
    metric = owner.metric()
    generation[3] = 5
    assert owner.process.is_due
    cell = metric.make(("a",))

    assert 5 == owner.process.generation == owner.process.seen == owner.series()[cell.place].generation
    owner.catch_up = lambda: owner.calls.append("failed")
    generation[3] = 6
    other = metric.make(("b",))
    assert 6 == owner.series()[other.place].generation
    assert 1 == owner.calls.count("failed")
    owner.process.watch(None, 0)
    assert (0, False) == (owner.process.generation, owner.process.is_due)
