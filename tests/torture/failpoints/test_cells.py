"""The hot words of the Python twin, killed before every instruction; those of the C twin are single stores."""

from __future__ import annotations

import math
import mmap
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, cast

import pytest

from mpmetrics._cells import pure, sketch
from mpmetrics._cells.arithmetic import distribution_sum, latest, sketch_record

if TYPE_CHECKING:
    from collections.abc import Callable

FILES = (pure.__file__, sketch.__file__)
LAYOUT = sketch.LAYOUTS["duration"]


def read_counter(words: Any) -> object:
    """The value."""
    return words[0]


def read_recent(words: Any) -> object:
    """The pair that counts; times are not to be foreseen."""
    return latest(words[:4])[1]


def read_distribution(words: Any) -> object:
    """Sum and buckets."""
    values = words[:5].tolist()
    return distribution_sum(values), values[2:]


def read_sketch(words: Any) -> object:
    """The record that counts, and the buckets."""
    values = words[: 2 * sketch.RECORD + LAYOUT.size].tolist()
    return list(sketch_record(values)), values[2 * sketch.RECORD :]


CASES: dict[str, tuple[Any, Callable[[Any, int], object], Callable[[Any], object]]] = {
    "counter": (pure.CounterCell, lambda cell, _: cell.inc(), read_counter),
    "gauge": (pure.GaugeCell, lambda cell, _: cell.inc(2.0), read_counter),
    "gauge_set": (pure.GaugeCell, lambda cell, _: cell.set(7.0), read_counter),
    "recent": (pure.RecentCell, lambda cell, value: cell.set(10.0 + value), read_recent),
    "histogram": (
        lambda guard, segment, at: pure.DistributionCell(guard, segment, at, (1.0, 2.0, math.inf)),
        lambda cell, _: cell.observe(1.5),
        read_distribution,
    ),
    "sketch": (
        lambda guard, segment, at: sketch.SketchCell(guard, segment, at, LAYOUT),
        lambda cell, _: cell.update(0.3),
        read_sketch,
    ),
}


def run_until(number: int, action: Callable[[], object]) -> int:
    """In a child: carry out ``action``, killed before that instruction of the cells; how it ended."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    passed = 0

    def step(frame: Any, event: str, _: object) -> Any:
        nonlocal passed
        if frame.f_code.co_filename not in FILES:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            if passed == number:
                os.kill(os.getpid(), signal.SIGKILL)
            passed += 1
        return step

    try:
        sys.settrace(step)
        action()
    finally:
        os._exit(0)


def sweep(name: str) -> int:
    """Kill at every instruction of the operation; the words are as before it or as after it. Returns how many."""
    make, operate, read = CASES[name]
    shared = memoryview(mmap.mmap(-1, 1 << 16)).cast("d")
    words = cast("pure.Words", shared)

    def written(times: int) -> Any:
        """A cell that was written so often, in words that were zero."""
        shared[:] = memoryview(bytes(1 << 16)).cast("d")
        cell = make(pure.Guard(), pure.Segment(words), 0)
        for value in range(times):
            operate(cell, value)
        return cell

    for number in range(100_000):
        times = number % 3  # both words, or records, have their turn
        written(times + 1)
        after = read(shared)
        cell = written(times)
        before = read(shared)
        status = run_until(number, lambda: operate(cell, times))  # noqa: B023 (called at once)
        assert read(shared) in ([after] if status == 0 else [before, after]), f"{name} killed at instruction {number}"
        if status == 0:
            return number
    raise AssertionError("it never ends")


@pytest.mark.parametrize("name", list(CASES))
def test_killed_at_any_instruction(name: str, tally: Callable[..., None]) -> None:
    """A writer killed at any instruction leaves its series as before its last operation, or as after it."""
    kills = sweep(name)
    assert kills > 5
    tally(kills)


def test_the_sweep_finds_a_commit_before_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a histogram's bucket stored before its sum."""

    def hasty(self: Any, amount: float) -> None:
        words, index = self._segment.words, self._index
        odd = self._count_odd(words, index)
        words[index + 3] += 1.0
        self._count_odd(words, index)  # an instruction of the cells to be killed at
        words[index + 1 - odd] = words[index + odd] + amount

    monkeypatch.setattr(pure.DistributionCell, "_observe", hasty)
    with pytest.raises(AssertionError, match="killed at instruction"):
        sweep("histogram")
