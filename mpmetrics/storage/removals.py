"""The removals of an epoch: appended by the process that removes, read by owners, readers and folders.

Only removing takes a lock. A record counts once the generation in the shared page has reached its own.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, NamedTuple

from mpmetrics._cells import find_removals, read_tail
from mpmetrics.errors import StoreUnavailableError
from mpmetrics.storage import format as fmt
from mpmetrics.storage.descriptor import Directory, open_regular, replace, write_all
from mpmetrics.storage.locks import Mutex

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from mpmetrics._cells import Children
    from mpmetrics.names.family import Key
    from mpmetrics.storage.shared import Shared

__all__ = ["Pairs", "Removal", "Removals"]

NAME = "removals"
PATIENCE = 0.5
"""Seconds that a process waits for another one that removes."""

MOST_BYTES = 1 << 24
_HEAD = struct.Struct("=QI")
_LATEST = (1 << 64) - 1

Pairs = tuple[tuple[str, str], ...]


class Removal(NamedTuple):
    """Series that are gone: those of ``metric`` with the labels ``pairs``, or all whose labels include these."""

    generation: int
    metric: str
    pairs: Pairs
    is_subset: bool

    def includes(self, labels: Pairs) -> bool:
        """Whether ``labels``, or those of them that are not empty, include these. An empty one is to be missing."""
        values = dict(labels)
        return all(values.get(name, "") == value for name, value in self.pairs)

    def ended(self, children: Children) -> list[Key]:
        """Keys of the series that it ends among those of its metric in this process."""
        family = children.family
        if not self.is_subset:
            return [family.key(self.pairs)]
        return [key for key in list(children) if self.includes(() if key is None else family.pairs(key))]

    def encode(self) -> bytes:
        """Its record; ValueError when the texts are none of a record."""
        texts = [self.metric, *(text for pair in self.pairs for text in pair)]
        return fmt.encode_record(fmt.REMOVE, _HEAD.pack(self.generation, self.is_subset) + fmt.pack_texts(texts))

    @classmethod
    def decode(cls, body: bytes) -> Removal:
        """The removal of a record; ValueError when there is none in it."""
        generation, flags = _HEAD.unpack_from(body)
        metric, *rest = fmt.unpack_texts(body, _HEAD.size)
        return cls(generation, metric, tuple(zip(rest[::2], rest[1::2], strict=True)), bool(flags & fmt.SUBSET))


class Removals:
    """The removals of the epoch in ``directory``. Keeps in mind how far it has read.

    A reader asks for all with :meth:`read`, an owner for what has come with :meth:`after`; not both of one object.
    """

    def __init__(self, directory: Directory, shared: Shared) -> None:
        self._directory = directory
        self._shared = shared
        self._file = 0, 0
        """Number of the file that was read, and how often it had been shortened."""
        self.size = 0
        """Bytes that were read of it."""
        self.known: list[Removal] = []
        """What was read last."""
        self._gaps = 0
        self._rest = b""
        self._is_cut = False

    @property
    def damaged(self) -> int:
        """Stretches of the file that could not be read."""
        return self._gaps + self._is_cut

    def read(self) -> list[Removal]:
        """All that the file holds, in order; OSError when it cannot be read. Another list whenever it has changed."""
        generation = self._shared.generation  # first: what is committed now is in the file that is read next
        known = self.known[-1].generation if self.known else 0
        file = self._file
        found = self.after(known, generation, None)
        if file not in ((0, 0), self._file):  # it was shortened: what was known may be gone from it
            self._file, self.size = (0, 0), 0
            self.known, found = [], self.after(0, generation, None)
        if found:
            self.known = self.known + found  # anew: readers hold what was known
        # Bytes behind the last record may be what a killed remover left, unless a committed record is missing.
        is_short = generation > (self.known[-1].generation if self.known else 0)
        self._is_cut = bool(is_short and self._rest) and not find_removals(self._rest, 0, _LATEST, None)[0]
        return self.known

    def after(self, generation: int, upto: int, metrics: Mapping[str, Children] | None) -> list[Removal]:
        """Those of a later generation, up to ``upto``, that may end a series of these metrics; OSError as above.

        Reads on from where it was read to; from the beginning where somebody has shortened the file.
        """
        file, position, data = self._tail()
        if file != self._file:
            self._gaps = 0
        end, gaps, bodies = find_removals(data, generation, upto, metrics)
        self._file, self.size, self._rest = file, position + end, data[end:]
        self._gaps += gaps
        found = []
        for body in bodies:
            try:
                found.append(Removal.decode(body))
            except (ValueError, struct.error):
                self._gaps += 1
        return found

    def _tail(self) -> tuple[tuple[int, int], int, bytes]:
        """Which file there is, where it was read on from, and what it holds from there on."""
        where, shortened = self._directory.where, self._shared.shortened
        known = self._file[0] if self._file[1] == shortened else 0
        number, position, data = read_tail(where, NAME, known, self.size, MOST_BYTES)
        if self._shared.shortened != shortened:  # the file may have been another one already
            number, position, data = read_tail(where, NAME, 0, 0, MOST_BYTES)
        return (number, shortened), position, data

    def append(self, metric: str, pairs: Sequence[tuple[str, str]], *, is_subset: bool) -> int:
        """Remove series; returns the generation of that.

        Raises :class:`~mpmetrics.errors.StoreError`, with nothing removed, when the store cannot take it, or when
        another process removes for longer than half a second.
        """
        with self._directory.open() as folder, Mutex("removals.lock", PATIENCE, dir_fd=folder):
            generation = self._shared.generation + 1
            if generation >> 63:
                msg = f"{self._directory.path}/shared is damaged: no removal comes after generation {generation - 1}"
                raise StoreUnavailableError(msg)
            # The position stays where it is: this process has not taken in the removals behind it.
            _, end, data = self._tail()
            end += find_removals(data, generation, generation - 1, {})[0]
            record = Removal(generation, metric, tuple(pairs), is_subset).encode()
            if end + len(record) > MOST_BYTES:
                msg = f"{self._directory.path}/{NAME} is full: no process folds, or one holds series long removed"
                raise StoreUnavailableError(msg)
            with open_regular(NAME, os.O_RDWR, dir_fd=folder) as descriptor:
                # A killed remover may have left bytes of another record here, of this generation, too.
                os.ftruncate(descriptor, end)
                write_all(descriptor, record, end)
            self._shared.generation = generation
        return generation

    def shorten(self, needed: Collection[int]) -> None:
        """Forget all removals that were read so far but those of the generations that are ``needed``.

        The caller holds the fold lock, and knows that the others end no series. StoreError and OSError as above.
        """
        last = self.known[-1].generation if self.known else 0
        with self._directory.open() as folder, Mutex("removals.lock", PATIENCE, dir_fd=folder):
            self.read()
            kept = [each for each in self.known if each.generation > last or each.generation in needed]
            records = b"".join(removal.encode() for removal in kept)
            # Before the file is replaced. A process that reads the old one meanwhile knows more than it needs.
            self._shared.count_shortening()
            replace(folder, NAME, self._directory.owner, lambda descriptor: write_all(descriptor, records, 0))
