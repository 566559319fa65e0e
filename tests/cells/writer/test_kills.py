"""After a kill at any moment, a slab is as before an operation or as after it."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mpmetrics._cells.arithmetic import distribution_sum, sketch_record
from mpmetrics.storage import format as fmt

if TYPE_CHECKING:
    from collections.abc import Callable


def kill_at_random(twin: Any, owners: Any, descriptor: int) -> None:
    """Make, write to and end series in the file, until killed."""
    owner = owners(twin, room=1 << 16, descriptor=descriptor)
    sizes, sketches = owner.metric("DistributionCell"), owner.metric("SketchCell")
    sketch = sketches.make(("s",))
    number = 0
    while True:
        number += 1
        cell = sizes.make((str(number % 5),))
        for _ in range(number % 4):
            cell.observe(1.5)
            sketch.update(1.5)
        sizes.end((str((number + 2) % 5),))


def test_killed_at_any_moment(twin: Any, owners: Any, series_in: Any) -> None:
    """After a kill at a random moment, records are valid, and each series is as before or as after an operation."""
    kinds = set()
    for _ in range(40):
        descriptor = os.memfd_create("slab")
        os.ftruncate(descriptor, fmt.SLAB_SIZE)
        held = twin.Map(descriptor, fmt.SLAB_SIZE)
        pid = os.fork()
        if not pid:
            kill_at_random(twin, owners, descriptor)
        head = memoryview(held).cast("Q")
        while not head[fmt.COMMITTED]:
            time.sleep(0.001)  # the process has not written its first record yet
        time.sleep(random.uniform(0.005, 0.03))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(descriptor)
        words = memoryview(held).cast("d")
        for first, series in series_in(memoryview(held)).items():
            kinds.add(series.key)
            values = list(words[first : first + series.width])
            if series.width > 5:
                total, _, squares, _, least, most = sketch_record(values)
                count = sum(values[12:])
                assert (1.5 * count, 2.25 * count) == (total, squares)
                assert not count or (1.5, 1.5) == (least, most)
            else:
                assert (1.5 * values[3], 0, values[3], 0) == observed(values)

    assert len(kinds) > 2


class Killed(BaseException):
    """Stands for a kill of the process."""


def killed_before(act: Callable[[], object], instruction: int) -> bool:
    """Stop ``act`` before this instruction of the Python twin; whether it finished before."""
    left = instruction

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal left
        if Path(frame.f_code.co_filename).name not in ("attempt.py", "children.py", "pure.py", "sketch.py", "slab.py"):
            return None
        frame.f_trace = trace
        frame.f_trace_opcodes = True
        if event == "opcode":
            if left == 0:
                raise Killed
            left -= 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    except Killed:
        return False
    finally:
        sys.settrace(before)
    return True


OPERATIONS: dict[str, tuple[str, Callable[[Any], object]]] = {
    "observe": ("DistributionCell", lambda metric: metric.get(("a",)).observe(0.5)),
    "update": ("SketchCell", lambda metric: metric.get(("a",)).update(0.5)),
    "set": ("RecentCell", lambda metric: metric.get(("a",)).set(9)),
    "unset": ("RecentCell", lambda metric: metric.get(("a",)).unset()),
    "make": ("DistributionCell", lambda metric: metric.make(("b",))),
    "end": ("DistributionCell", lambda metric: metric.end(("a",))),
    "move": ("DistributionCell", lambda metric: metric.move(metric.get(("a",)))),
    "append": ("DistributionCell", lambda metric: metric.process.slab.append(77, b"123456789")),
    "flip": ("DistributionCell", lambda metric: metric.process.slab.flip()),
}
FIRST: dict[str, Callable[[Any], object]] = {
    "DistributionCell": lambda cell: cell.observe(1.5),
    "SketchCell": lambda cell: cell.update(1.5),
    "RecentCell": lambda cell: cell.set(3),
}


def observed(words: Any) -> tuple[float, ...]:
    """Sum and buckets as a reader reads them."""
    return (distribution_sum(words), *words[2:])


def readable(owner: Any, kind: str) -> Any:
    """The series and values that a reader finds in the slab."""
    values = {}
    for first, series in owner.series().items():
        words = list(owner.words[first : first + series.width])
        if kind == "DistributionCell":
            values[series] = observed(words)
        elif kind == "SketchCell":
            values[series] = (*sketch_record(words), *words[12:])
        else:
            value, moment = owner.latest(first)
            values[series] = (value,) if moment else ()
    return values


def ready(owner: Any, name: str) -> Any:
    """A metric with a series that has a value, ready for the operation."""
    kind = OPERATIONS[name][0]
    metric = owner.metric(kind)
    cell = metric.make(("a",))
    FIRST[kind](cell)
    if name == "move":
        owner.renew_slab()
    metric.make(("warm",))
    owner.head[fmt.ROOM + 1] = 1 << 14
    return metric


@pytest.mark.parametrize("name", OPERATIONS)
def test_killed_at_any_instruction(name: str, pure_twin: Any, owners: Any) -> None:
    """Stopped before any of its instructions, an operation of the Python twin leaves the slab as before or as after."""
    kind, operation = OPERATIONS[name]
    whole = owners(pure_twin, room=1 << 14)
    operation(ready(whole, name))
    states = []
    is_done = False
    while not is_done:
        owner = owners(pure_twin, room=1 << 14)
        metric = ready(owner, name)
        before = readable(owner, kind)
        is_done = killed_before(lambda metric=metric: operation(metric), len(states))  # type: ignore[misc]
        states.append(readable(owner, kind))
        assert states[-1] in (before, readable(whole, kind))

    assert len(states) > 20
    changes = sum(one != other for one, other in pairwise(states))
    assert (name not in ("append", "flip")) == changes


def test_a_single_sum_would_show_half_an_observation(pure_twin: Any, owners: Any) -> None:
    """The control: adding to the one sum and then to the bucket shows a state in between."""
    owner = owners(pure_twin)
    metric = owner.metric("DistributionCell")
    cell = metric.make(("a",))
    words, first = owner.words, cell.place
    words[first] += 1.5

    assert (1.5, 0, 0, 0) == observed(list(words[first : first + 5]))
