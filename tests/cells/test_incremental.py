"""Results cached from one scrape to the next equal fresh ones to the last bit, in both twins."""

from __future__ import annotations

import math
import struct
from array import array
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpmetrics import _cells
from mpmetrics._cells import merging, rows, text, words
from mpmetrics._cells.index import Table
from mpmetrics._cells.source import Source

if TYPE_CHECKING:
    from types import ModuleType

SERIES = 3 * words.BLOCK + 5
BUCKETS = 3
DOUBLES = st.one_of(
    st.integers(0, 5).map(float),
    st.sampled_from([0.0, -0.0, 0.1, 1e300, -1e300, math.inf, -math.inf, math.nan, struct.unpack("d", b"\1" * 8)[0]]),
)
CHANGES = st.tuples(st.just("set"), st.integers(0, SERIES - 1), DOUBLES)
ENDS = st.tuples(st.just("end"), st.integers(0, SERIES - 1), DOUBLES)
BIRTHS = st.tuples(st.just("make"), st.integers(0, SERIES + 9), DOUBLES)
OTHERS = st.tuples(st.sampled_from(["flip", "remove", "leave", "join"]), st.integers(0, SERIES - 1), DOUBLES)
STEPS = st.lists(st.tuples(st.integers(0, 2), CHANGES | CHANGES | ENDS | BIRTHS | OTHERS), min_size=1, max_size=12)


class Process:
    """A slab with many series of two families, numbers and distributions."""

    def __init__(self, slabs: Any, step: int) -> None:
        self.slab = slabs.Written()
        self.slab.family(0)
        self.slab.family(1)
        self.firsts: dict[tuple[int, int], int] = {}
        for key in range(0, SERIES, step):
            self.make(key, float(key))
        self.generation = 0

    def make(self, key: int, value: float) -> None:
        """Make a series of each family unless it exists."""
        if (0, key) not in self.firsts:
            self.firsts[0, key] = self.slab.series(0, (str(key),), (value,), generation=9)
            self.firsts[1, key] = self.slab.series(1, (str(key),), (value, value, 1.0, 2.0, 3.0), generation=9)

    def do(self, step: str, key: int, value: float) -> None:
        """Do one step of a process."""
        if step == "set" and (0, key) in self.firsts:
            self.slab.words[self.firsts[0, key]] = value
            self.slab.words[self.firsts[1, key] + key % (BUCKETS + 2)] = value
        elif step == "end" and (0, key) in self.firsts:
            for family in (0, 1):
                self.slab.end(self.firsts.pop((family, key)))
        elif step == "make":
            self.make(key, value)
        elif step == "flip":
            self.slab.flip()


class Reading:
    """Tables of both families, and a source for each process."""

    def __init__(self, twin: ModuleType | Any) -> None:
        self.twin = twin
        self.tables = [twin.Table(), twin.Table()]
        self.sources: dict[int, Any] = {}

    def read(self, processes: dict[int, Process]) -> None:
        """Read the present state of the processes."""
        self.sources = {
            number: self.sources.get(number) or self.twin.Source(process.slab.map)
            for number, process in processes.items()
        }
        for one in self.sources.values():
            self._parse(one)
            one.load()
            self._parse(one)
            for table in self.tables:
                one.sweep(table)

    def _parse(self, one: Any) -> None:
        while (record := one.parse()) is not None:
            width = (1, BUCKETS + 2)[record.number]
            one.family(record.number, self.tables[record.number], width, ("k",), False)

    def merged(self) -> dict[tuple[str, ...], Any]:
        """The merged values, by labels."""
        sources = list(self.sources.values())
        numbers, distributions = self.tables
        found: dict[tuple[str, ...], Any] = {}
        values, mask = self.twin.extremes(numbers, sources, True)
        for row, total in enumerate(self.twin.sums(numbers, sources)):
            if self.twin.present(numbers, sources)[row]:
                found["sum", numbers.labels(row)[0][1]] = bits([total, values[row], mask[row]])
        width = BUCKETS + 2
        cells = list(self.twin.distributions(distributions, sources, BUCKETS))
        for row, shown in enumerate(self.twin.present(distributions, sources)):
            if shown:
                found["spread", distributions.labels(row)[0][1]] = bits(cells[row * width : (row + 1) * width])
        return found


def bits(values: Any) -> list[bytes]:
    """Doubles as bytes, with one form for all NaN."""
    return [b"nan" if math.isnan(value) else array("d", (value,)).tobytes() for value in values]


def twin_of(name: str) -> Any:
    """All functions and classes of one twin."""
    if name == "compiled":
        return _cells

    class Pure:
        pass

    for module in (merging, rows, text):
        for what in module.__all__:
            setattr(Pure, what, staticmethod(getattr(module, what)))
    Pure.Table, Pure.Source = Table, Source  # type: ignore[attr-defined]
    return Pure


@pytest.mark.parametrize("name", ["pure", "compiled"])
@settings(max_examples=30)
@given(steps=STEPS)
def test_cached_results_equal_fresh_ones(slabs: Any, name: str, steps: list[Any]) -> None:
    """After any changes (new, ended and removed series, flips, leaving and joining processes), caches are right."""
    if name == "compiled" and _cells.TWIN != "compiled":
        pytest.skip("the extension is not in use")
    twin = twin_of(name)
    processes = {number: Process(slabs, number + 1) for number in range(3)}
    spare: dict[int, Process] = {}
    kept = Reading(twin)
    kept.read(processes)
    removals: list[tuple[int, int]] = []
    for number, (step, key, value) in steps:
        if step == "leave" and number in processes:
            spare[number] = processes.pop(number)
        elif step == "join" and number in spare:
            processes[number] = spare.pop(number)
        elif step == "remove":
            removals.append((key, 10 + len(removals)))
            for table in kept.tables:
                table.remove([("k", str(key))], False, removals[-1][1])
        elif number in processes:
            processes[number].do(step, key, value)
        kept.read(processes)

        anew = Reading(twin)
        anew.read(processes)
        for table in anew.tables:
            for removed, generation in removals:
                table.remove([("k", str(removed))], False, generation)
            for one in anew.sources.values():
                one.sweep(table)
        assert anew.merged() == kept.merged()


def test_the_check_detects_an_unnoticed_change(slabs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without the comparison of bytes, the pure-Python twin returns old sums."""
    process = Process(slabs, 1)
    kept = Reading(twin_of("pure"))
    kept.read({0: process})
    before = kept.merged()
    monkeypatch.setattr(merging, "differing", lambda *_: [])
    process.do("set", 7, 1e6)
    kept.read({0: process})

    assert before == kept.merged()
    monkeypatch.undo()
    anew = Reading(twin_of("pure"))
    anew.read({0: process})
    assert before != anew.merged()
