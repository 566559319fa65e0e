"""The series of one table in one source; part of the pure-Python twin of sources."""

from __future__ import annotations

from array import array
from itertools import takewhile
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mpmetrics._cells.offsets import FIRST_WORD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpmetrics._cells.index import Table

__all__ = ["CREATED", "FIRST", "GENERATION", "GONE", "WORDS", "Part"]

GONE: Final = -1

SeriesHead = tuple[int, int, int, float, int]
"""The fields before the texts in a SERIES record."""

WORDS: Final = 1
FIRST: Final = 2
CREATED: Final = 3
GENERATION: Final = 4
"""Positions of its fields: number of words, first word, time of creation, generation."""


class Layer(NamedTuple):
    """Series of different rows. ``places`` has the place of each row's values, 0 for a row without a series.

    If rows and places are consecutive, ``run`` is the first row, the first place and the number of rows.
    """

    places: list[int]
    run: tuple[int, int, int] | None
    getters: dict[int, itemgetter[Any]]
    """For each offset of a word in its series, the getter that picks this word of each row from the values."""


class Part:
    """The series of one table in one source, in the order of their records."""

    def __init__(self, table: Table, width: int) -> None:
        self.table = table
        self.width = width
        """Words of each series; 0: the numbers differ."""
        self.heads: list[SeriesHead] = []
        self.rows: list[int] = []
        """The row of each series; GONE if it has ended or was removed."""
        self.used = 0
        """How many of the series the table counts as uses of its rows."""
        self.loaded = 0
        """How many of the series have values."""
        self.gone = 0
        self.stamp: object = object()
        """A new object whenever series with values come or go."""
        self.swept = 0
        self.swept_removals = 0
        self.values = array("d", (0.0,))
        """The values of the source. Place 0 holds a zero, place 1 the first word."""
        self._layers: tuple[object, int, list[Layer]] | None = None
        self._columns: dict[tuple[int, int], tuple[object, array[float], list[array[float]]]] = {}
        self._members: tuple[object, dict[int, int]] = (None, {})

    def members(self) -> Iterator[int]:
        """The numbers of the series that have values."""
        return (at for at in range(self.loaded) if self.rows[at] != GONE)

    def words_of(self, member: int) -> array[float]:
        """The values of a series."""
        head = self.heads[member]
        start = place(head[FIRST])
        return self.values[start : start + head[WORDS]]

    def member(self, row: int) -> int | None:
        """The last series of a row."""
        stamp, members = self._members
        if stamp is not self.stamp:
            members = {self.rows[at]: at for at in self.members()}
            self._members = self.stamp, members
        return members.get(row)

    def columns(self, offset: int, rows: int) -> list[array[float]]:
        """Columns with the word at ``offset`` of each of ``rows`` rows, 0.0 for a row without a series.

        An unchanged column is the same object as before. If a row has more than one series here, there is more than one
        column.
        """
        cached = self._columns.get((offset, rows))
        if cached is not None and cached[0] is self.stamp and cached[1] is self.values:
            return cached[2]
        columns = [_column(self.values, layer, offset, self.width, rows) for layer in self._layered(rows)]
        if cached is not None:
            columns = [
                before if before == now and before.tobytes() == now.tobytes() else now
                for before, now in zip(cached[2], columns, strict=False)
            ] + columns[len(cached[2]) :]
        else:
            self._columns = {key: value for key, value in self._columns.items() if key[1] == rows}
        self._columns[offset, rows] = self.stamp, self.values, columns
        return columns

    def shown(self, rows: int) -> list[array[float]]:
        """For each of these columns, a column that is 1.0 where the row has a series."""
        return [array("d", map(float, map(bool, layer.places))) for layer in self._layered(rows)]

    def _layered(self, rows: int) -> list[Layer]:
        if self._layers is not None and self._layers[0] is self.stamp and self._layers[1] == rows:
            return self._layers[2]
        layers: list[dict[int, int]] = []
        members = [(self.rows[at], place(self.heads[at][FIRST])) for at in self.members()]
        while members:
            layer: dict[int, int] = {}
            left = [(row, where) for row, where in members if layer.setdefault(row, where) != where]
            layers.append(layer)
            members = left
        made = [_layer(layer, rows, self.width) for layer in layers]
        self._layers = self.stamp, rows, made
        return made

    def spans(self, end: int) -> Iterator[tuple[int, int]]:
        """Start and end of the places of each series of several words that ends before the word ``end``."""
        if self.width > 1:
            for head in self.heads:
                if head[FIRST] + self.width <= end:
                    yield place(head[FIRST]), place(head[FIRST]) + self.width

    def removed(self) -> list[int]:
        """The series that removals of the table have ended since the last call."""
        removals, removed = self.table.removals, self.table.removed
        first = self.swept if self.swept_removals == removals else 0
        self.swept, self.swept_removals = len(self.rows), removals
        if not removed:
            return []
        members = range(first, len(self.rows))
        found = [at for at in members if self.rows[at] != GONE]
        return [at for at in found if self.heads[at][GENERATION] < removed.get(self.rows[at], 0)]

    def use(self) -> None:
        """Let the table count the rows of new series."""
        self.table.use(self.rows[self.used :])
        self.used = len(self.rows)

    def set_values(self, values: array[float]) -> None:
        """Set the values of all series."""
        self.values = values
        if self.loaded != len(self.rows):
            self.loaded = len(self.rows)
            self.stamp = object()

    def loaded_series(self) -> set[tuple[SeriesHead, int]]:
        """Heads and rows of the series that have values."""
        return {(self.heads[at], self.rows[at]) for at in self.members()}

    def keep_values(self, known: set[tuple[SeriesHead, int]], values: array[float]) -> None:
        """After a flip: let the leading series that are in ``known`` keep their values."""
        self.values = values
        self.loaded = sum(1 for _ in takewhile(known.__contains__, zip(self.heads, self.rows, strict=True)))

    def compact(self) -> None:
        """Forget the series that are gone."""
        kept = [at for at, row in enumerate(self.rows) if row != GONE]
        self.swept = sum(at < self.swept for at in kept)
        self.heads = [self.heads[at] for at in kept]
        self.rows = [self.rows[at] for at in kept]
        self.used = len(kept)
        self.gone = 0
        self.loaded = -1


def place(word: int) -> int:
    """The index of a word's value in ``Part.values``."""
    return word - FIRST_WORD + 1


def _layer(places: dict[int, int], rows: int, width: int) -> Layer:
    by_row = [0] * rows
    for row, at in places.items():
        by_row[row] = at
    first, count = next(iter(places)), len(places)
    start = places[first]
    is_run = list(places) == list(range(first, first + count)) and list(places.values()) == list(
        range(start, start + count * (width or 1), width or 1)
    )
    return Layer(by_row, (first, start, count) if is_run else None, {})


def _column(values: array[float], layer: Layer, offset: int, width: int, rows: int) -> array[float]:
    if layer.run is not None:
        first, start, count = layer.run
        found = values[start + offset : start + offset + count * width : width]
        return array("d", bytes(8 * first)) + found + array("d", bytes(8 * (rows - first - count)))
    getter = layer.getters.get(offset)
    if getter is None:
        # The last item twice: an itemgetter of one item returns no tuple.
        wanted = [at + offset if at else 0 for at in layer.places]
        getter = layer.getters[offset] = itemgetter(*wanted, wanted[-1])
    return array("d", getter(values)[:rows])
