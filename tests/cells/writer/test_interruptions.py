"""Operations are exact, without a lock, when threads, signal handlers, finalisers or collections interrupt them."""

from __future__ import annotations

import gc
import random
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from mpmetrics._cells.arithmetic import distribution_sum

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.usefixtures("restless")
def test_threads_lose_nothing(owner: Any, distribution: Any) -> None:
    """When eight threads write to the same cells and make, end and look up series, each operation counts."""
    counter, gauge, sizes = owner.cells()
    metric, ended = owner.metric(), owner.metric()
    rounds = 1000 if owner.twin.name == "pure" else 10_000

    def work(number: int) -> None:
        for at in range(rounds):
            counter.inc()
            gauge.inc(2)
            gauge.dec()
            sizes.observe(1.5)
            metric.make((str(at % 500),)).inc()
            if at % 10 == 0:
                ended.make((f"{number}",)).inc()
                ended.end((f"{number}",))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert ([8.0 * rounds], [8.0 * rounds]) == (counter.values(), gauge.values())
    assert (12.0 * rounds, 0, 8.0 * rounds, 0) == distribution(sizes.values())
    assert 8.0 * rounds == sum(cell.values()[0] for cell in metric.values())
    assert 500 + 3 == len(owner.series())
    assert all(owner.words[cell.place] == cell.values()[0] for cell in metric.values())


def storm(owner: Any, setting: str) -> tuple[Any, ...]:
    """For a second, interrupt operations by the same operations in signal handlers, collections or finalisers."""
    counter, gauge, sizes = owner.cells()
    made = owner.metric(limit=1 << 30, budget=1 << 40)
    own = interruptions = 0
    is_over = False

    def act() -> None:
        counter.inc()
        gauge.inc()
        sizes.observe(1.5)
        made.make((str((own + interruptions) % 50),)).inc()
        made.end((str((own + 25) % 50),))

    def interrupt(*_: object) -> None:
        nonlocal interruptions
        interruptions += 1
        act()
        if setting == "signal" and not is_over:
            signal.setitimer(signal.ITIMER_REAL, 0.0002)

    class Dying:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            interrupt()

    if setting == "signal":
        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.0002)
    elif setting == "collection":
        gc.set_threshold(5, 2, 2)
        gc.callbacks.append(lambda phase, _: interrupt() if phase == "start" else None)
    else:
        gc.set_threshold(5, 2, 2)
    kept: list[object] = []
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        act()
        own += 1
        if setting != "signal":
            kept.append([Dying() if setting == "finaliser" else None])
            if len(kept) > 100:
                kept.clear()
    is_over = True
    signal.setitimer(signal.ITIMER_REAL, 0)
    gc.callbacks.clear()
    gc.set_threshold(700, 10, 10)
    kept.clear()
    gc.collect()
    total = own + interruptions
    in_slab = {series.key for series in owner.series().values() if series.family == owner.metrics.index(made)}
    return (
        interruptions,
        (total, counter.values()[0], gauge.values()[0], sizes.values()[3], distribution_sum(sizes.values()) / 1.5),
        in_slab == set(made.keys()),
        all(owner.series()[cell.place].key == key for key, cell in made.items()),
    )


@pytest.mark.parametrize("setting", ["signal", "collection", "finaliser"])
def test_a_storm_of_interruptions_loses_nothing(owner: Any, setting: str, in_child: Callable[..., Any]) -> None:
    """Interruptions by handlers, collection callbacks and finalisers neither hang nor lose an operation."""
    interruptions, counts, is_same, is_right = in_child(storm, owner, setting)

    assert interruptions > 50
    assert len(set(counts)) == 1
    assert is_same
    assert is_right


class Stop(Exception):  # noqa: N818 (not an error)
    """Raised by a signal handler."""


def raising_storm(owner: Any) -> dict[str, Any]:
    """Write to cells and make series while a signal handler raises; another thread counts undisturbed."""
    counter, _, sizes = owner.cells()
    other_counter, _, other_sizes = owner.cells()
    made = owner.metric(limit=1 << 30, budget=1 << 40)
    begun = done = hits = others_done = 0
    is_caught = is_over = False

    def interrupt(*_: object) -> None:
        if is_caught:
            raise Stop

    def work() -> None:
        nonlocal others_done
        while not is_over:
            other_counter.inc()
            other_sizes.observe(1.5)
            others_done += 1

    signal.signal(signal.SIGALRM, interrupt)
    thread = threading.Thread(target=work)
    thread.start()
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        try:
            is_caught = True
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00001, 0.0005))
            for _ in range(10_000):  # bounded: an exception within a finaliser does not end the loop
                begun += 1
                counter.inc()
                sizes.observe(1.5)
                made.make((str(begun % 50),)).inc()
                made.end((str((begun + 25) % 50),))
                done += 1
            is_caught = False
        except Stop:
            is_caught = False
            hits += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    is_over = True
    thread.join()
    in_slab = {series.key for series in owner.series().values() if series.family == owner.metrics.index(made)}
    return {
        "hits": hits,
        "mine": (done, counter.values()[0], sizes.values()[3], begun),
        "others": (others_done, other_counter.values()[0], other_sizes.values()[3]),
        "series": in_slab == set(made.keys()),
    }


@pytest.mark.usefixtures("restless")
def test_a_handler_that_raises_costs_what_it_interrupts(owner: Any, in_child: Callable[..., Any]) -> None:
    """A raising handler costs the interrupted operation only; all others are exact, in other threads, too."""
    told = in_child(raising_storm, owner)

    assert told["hits"] > 100
    done, counted, seen, begun = told["mine"]
    assert done <= seen <= counted <= begun
    done, counted, seen = told["others"]
    assert done == counted == seen
    assert told["series"]


def test_a_handler_within_each_call_to_the_owner(owner: Any) -> None:
    """If a handler makes the same series within any call to the owner, the series is still made once."""
    metric = owner.metric("SketchCell")

    def within(step: str) -> None:
        inner = getattr(type(owner), step)

        def act(*arguments: Any) -> Any:
            owner.__dict__.pop(step)
            metric.make(("a",)).update(1)
            return inner(owner, *arguments)

        setattr(owner, step, act)

    for step in ("begin", "declare_in", "grow"):
        within(step)
    cell = metric.make(("a",))
    cell.update(1)

    assert 1 == len(owner.series())
    assert 1 <= sum(cell.values()[12:])
    owner.renew()
    owner.process.counting = 0
    for step in ("begin", "declare_in", "grow"):
        within(step)
    cell.update(2)
    assert 1 == len(owner.series())
    assert cell.place is not None
