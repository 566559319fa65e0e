"""The Python twin's writes to words, killed before every instruction; those of the C twin are single stores."""

from __future__ import annotations

import math
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from mpmetrics._cells import pure, sketch
from mpmetrics._cells.arithmetic import distribution_sum, sketch_record
from mpmetrics._cells.children import Children
from mpmetrics._cells.maps import Map, new_token
from mpmetrics._cells.process import Process
from mpmetrics._cells.slab import Slab
from mpmetrics.storage import format as fmt

if TYPE_CHECKING:
    from collections.abc import Callable

FILES = (pure.__file__, sketch.__file__)
LAYOUT = sketch.LAYOUTS["duration"]


def read_counter(words: Any) -> object:
    """The value."""
    return words[0]


def read_recent(words: Any) -> object:
    """The pair that counts; times are not to be foreseen."""
    return words[0] if words[1] >= words[3] else words[2]


def read_distribution(words: Any) -> object:
    """Sum and buckets."""
    values = words[:5].tolist()
    return distribution_sum(values), values[2:]


def read_sketch(words: Any) -> object:
    """The record that counts, and the buckets."""
    values = words[: 2 * sketch.RECORD + LAYOUT.size].tolist()
    return list(sketch_record(values)), values[2 * sketch.RECORD :]


class Family(NamedTuple):
    """As much of a metric's family as its cells need."""

    name: str = "killed"
    mode: str = "duration"
    bounds: tuple[float, ...] = (1.0, 2.0, math.inf)


class Owner:
    """A process whose slab is in memory that it shares with its children."""

    def __init__(self, slab: Slab) -> None:
        self.process = Process(self)
        self.process.slab = slab
        self.process.token = self.process.begun = self.process.counting = new_token()

    def declare_in(self, children: Children) -> None:
        """Say that it is done."""
        children.stamp = self.process.token


CASES: dict[str, tuple[type[Any], int, Callable[[Any, int], object], Callable[[Any], object]]] = {
    "counter": (pure.CounterCell, 1, lambda cell, _: cell.inc(), read_counter),
    "gauge": (pure.GaugeCell, 1, lambda cell, _: cell.inc(2.0), read_counter),
    "gauge_set": (pure.GaugeCell, 1, lambda cell, _: cell.set(7.0), read_counter),
    "recent": (pure.RecentCell, 4, lambda cell, value: cell.set(10.0 + value), read_recent),
    "histogram": (pure.DistributionCell, 5, lambda cell, _: cell.observe(1.5), read_distribution),
    "sketch": (
        sketch.SketchCell,
        2 * sketch.RECORD + LAYOUT.size,
        lambda cell, _: cell.update(0.3),
        read_sketch,
    ),
}


def run_until(number: int, prepare: Callable[[], Any], action: Callable[[Any], object]) -> int:
    """In a child: carry out ``action``, killed before that instruction of the cells; how it ended."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    passed = 0

    def step(frame: Any, event: str, _: object) -> Any:
        nonlocal passed
        if frame.f_code.co_filename not in FILES:
            return None
        frame.f_trace = step
        frame.f_trace_opcodes = True
        if event == "opcode":
            if passed == number:
                os.kill(os.getpid(), signal.SIGKILL)
            passed += 1
        return step

    try:
        cell = prepare()
        sys.settrace(step)
        action(cell)
    finally:
        os._exit(0)


def sweep(name: str) -> int:
    """Kill at every instruction of the operation; the words are as before it or as after it. Returns how many."""
    cell_type, width, operate, read = CASES[name]
    end = fmt.PAGE + fmt.WORD * width
    descriptor = os.memfd_create("slab")
    os.ftruncate(descriptor, fmt.SLAB_SIZE)
    shared = Map(descriptor, fmt.SLAB_SIZE, write=True)
    os.close(descriptor)
    head, words = memoryview(shared).cast("Q"), memoryview(shared).cast("d")[fmt.FIRST_WORD :]

    def written(times: int) -> Any:
        """A cell that was written so often, in the first words of the slab."""
        memoryview(shared)[:end] = bytes(end)
        head[fmt.WORDS_END], head[fmt.ROOM] = end, fmt.PAGE
        process = Owner(Slab(shared)).process
        children = Children(process, Family(), cell_type, width=width, limit=1, budget=100)
        cell = children.make(("killed",))
        for value in range(times):
            operate(cell, value)
        return cell

    for number in range(100_000):
        times = number % 3  # both words, or records, have their turn
        written(times + 1)
        after = read(words)
        written(times)
        before = read(words)
        status = run_until(number, lambda: written(times), lambda cell: operate(cell, times))  # noqa: B023 (at once)
        assert read(words) in ([after] if status == 0 else [before, after]), f"{name} killed at instruction {number}"
        if status == 0:
            return number
    raise AssertionError("it never ends")


@pytest.mark.parametrize("name", list(CASES))
def test_killed_at_any_instruction(name: str, tally: Callable[..., None]) -> None:
    """A writer that is killed at any instruction leaves its series as before or as after the operation."""
    kills = sweep(name)
    assert kills > 5
    tally(kills)


def test_the_sweep_finds_a_commit_before_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a histogram's bucket stored before its sum."""

    def hasty(self: Any, amount: float) -> None:
        while self._live[0] != self._stamp:
            self._ready()
        words, at, odd = self._words, self._at, self._count & 1
        words[at + 3] += 1.0
        assert self._name  # instructions of the cells to be killed at
        words[at + 1 - odd] = words[at + odd] + amount
        self._count += 1

    monkeypatch.setattr(pure.DistributionCell, "observe", hasty)
    with pytest.raises(AssertionError, match="killed at instruction"):
        sweep("histogram")
