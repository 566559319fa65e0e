"""Tables: the different label sets of one metric, over all processes; the pure-Python twin.

A *key* is the texts of a SERIES record: u16 count, u16 length of each text, the texts in UTF-8. They are the values of
the family's labels, in their order; in an open family, name and value of each further label follow. A count of 65535
without lengths is the key of the overflow series.
"""

from __future__ import annotations

from collections import Counter
from itertools import compress
from typing import TYPE_CHECKING, Any, Final

from mpmetrics._cells.encoding import pack_texts, unpack_texts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Pairs = tuple[tuple[str, str], ...]

__all__ = ["Table", "Texts"]

OVERFLOW_LABELS: Final = (("otel_metric_overflow", "true"),)
NONE: Final = -1
_OVERFLOW_KEY: Final = pack_texts(None)


class Texts(list[bytes]):
    """The text of the labels of each row of a table; it grows when the table does."""

    __slots__ = ()

    def are_distinct(self, mask: bytes) -> bool:
        """Whether all rows whose byte in ``mask`` is not zero have different texts."""
        shown = list(compress(self, mask))
        return len(set(shown)) == len(shown)


class Table:
    """Rows: different label sets. The order of labels does not matter, nor do labels with empty values.

    Rows are numbered in the order in which they come and are never deleted. A row has the labels of its first series.
    Only one thread at a time may write; others may read existing rows meanwhile.
    """

    def __init__(self) -> None:
        self.families: list[tuple[tuple[str, ...], bool]] = []
        """Label names and ``is_open`` of the declarations, each once, in the order in which they came."""
        self.overflow = NONE
        """The row of the overflow series, or -1."""
        self.keys: list[tuple[int, bytes]] = []
        """For each row, the index of its family and its key."""
        self.removed: dict[int, int] = {}
        """By row, the generation of its last removal: series of a lower generation have ended."""
        self.removals = 0
        self.cache: dict[Any, Any] = {}
        """Results of merging, kept for the next merge."""
        self._family_index: dict[tuple[tuple[str, ...], bool], int] = {}
        self._known: dict[tuple[int, bytes], int] = {}
        self._by_pairs: dict[Pairs, int] = {}
        self._labels: list[Pairs] = []
        self._uses: Counter[int] = Counter()
        self._texts: dict[object, Texts] = {}

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def present(self) -> int:
        """How many rows have a series in a living source."""
        return len(self._uses)

    def labels(self, row: int) -> Pairs:
        """Label names and values of a row, in the order of its family; the overflow row has one label."""
        self._check(row)
        return self._labels[row]

    def _check(self, row: int) -> None:
        if not 0 <= row < len(self):
            msg = f"there is no row {row}, of {len(self)}"
            raise IndexError(msg)

    def find(self, pairs: Iterable[tuple[str, str]]) -> int:
        """The row with these labels, or -1. Never the overflow row."""
        return self._by_pairs.get(_canonical(pairs), NONE)

    def remove(self, pairs: Iterable[tuple[str, str]], subset: bool, generation: int, first_row: int = 0) -> None:  # noqa: FBT001 (as in C)
        """Mark rows as removed: those with these labels or, with ``subset``, all whose labels include them.

        In a subset, an empty value asks for a missing or empty label. A subset without pairs matches all rows; only it
        matches the overflow row. Rows before ``first_row`` are skipped. ``Source.sweep`` then drops the series.
        """
        pairs = list(pairs)
        wanted = _canonical(pairs)
        if not subset:
            row = self._by_pairs.get(wanted, NONE)
            if row >= max(first_row, 0):
                self._remove(row, generation)
            return
        needed, missing = set(wanted), {name for name, value in pairs if not value}
        for row in range(max(first_row, 0), len(self)):
            labels = self._labels[row]
            is_wanted = needed.issubset(labels) and not any(value and name in missing for name, value in labels)
            if not pairs or (row != self.overflow and is_wanted):
                self._remove(row, generation)

    def _remove(self, row: int, generation: int) -> None:
        if self.removed.get(row, 0) < generation:
            self.removed[row] = generation
            self.removals += 1

    def texts(self, key: object, make: Callable[[Pairs], bytes] | None) -> Texts:
        """The text of each row's labels, which ``make`` returns; it is called once for each row and ``key``.

        Without ``make`` the text is ``name="value",...``, escaped as in the text formats.
        """
        texts = self._texts.setdefault(key, Texts())
        make = make or _plain
        while (row := len(texts)) < len(self):
            # Not append(): another thread, or ``make``, may have added the same row meanwhile.
            texts[row : row + 1] = [make(self._labels[row])]
        return texts

    # Methods for sources.

    def family(self, labels: tuple[str, ...], is_open: bool) -> int:  # noqa: FBT001 (as in C)
        """The index of a family."""
        index = self._family_index.setdefault((labels, is_open), len(self.families))
        if index == len(self.families):
            self.families.append((labels, is_open))
        return index

    def row(self, family: int, key: bytes) -> int:
        """The row of a key, made if it is new. ValueError when the key does not fit the family."""
        row = self._known.get((family, key))
        if row is not None:
            return row
        if key == _OVERFLOW_KEY:
            if self.overflow < 0:
                self.overflow = self._add(family, key, OVERFLOW_LABELS)
            return self.overflow
        labels = _decode(key, *self.families[family])
        pairs = _canonical(labels)
        row = self._by_pairs.get(pairs)
        if row is None:
            row = self._by_pairs[pairs] = self._add(family, key, labels)
        self._known[family, key] = row
        return row

    def _add(self, family: int, key: bytes, labels: Pairs) -> int:
        self.keys.append((family, key))
        self._labels.append(labels)
        return len(self._labels) - 1

    def use(self, rows: Iterable[int]) -> None:
        """Count one more series for each of these rows."""
        self._uses.update(rows)

    def release(self, rows: Iterable[int]) -> None:
        """Count one series less for each of these rows."""
        for row in rows:
            self._uses[row] -= 1
            if not self._uses[row]:
                del self._uses[row]


def _canonical(pairs: Iterable[tuple[str, str]]) -> Pairs:
    return tuple(sorted(pair for pair in pairs if pair[1]))


def _decode(key: bytes, labels: tuple[str, ...], is_open: bool) -> Pairs:  # noqa: FBT001 (as in C)
    """The label names and values of a key; ValueError when it is not a key of this family."""
    texts = unpack_texts(key, 0)
    more = texts[len(labels) :]
    if len(texts) < len(labels) or (more and not is_open) or len(more) % 2 or "" in more[::2]:
        raise ValueError("its texts do not fit this family")
    return (*zip(labels, texts, strict=False), *zip(more[::2], more[1::2], strict=True))


def _plain(labels: Pairs) -> bytes:
    return ",".join([f'{name}="{_escaped(value)}"' for name, value in labels]).encode()


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
