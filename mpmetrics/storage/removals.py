"""The file ``removals`` of an epoch: a process that removes series appends to it; owners, readers and fold() read it.

Only writers take a lock. A record counts once the generation in the shared page has reached the record's.
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
"""Seconds to wait for another process that removes series."""

MOST_BYTES = 1 << 24
_HEAD = struct.Struct("=QI")
_LATEST = (1 << 64) - 1

Pairs = tuple[tuple[str, str], ...]


class Removal(NamedTuple):
    """Ends the series of ``metric`` with the labels ``pairs``; with ``is_subset`` all whose labels include these."""

    generation: int
    metric: str
    pairs: Pairs
    is_subset: bool

    def includes(self, labels: Pairs) -> bool:
        """Whether ``labels`` include the pairs. A pair with an empty value asks for a missing or empty label."""
        values = dict(labels)
        return all(values.get(name, "") == value for name, value in self.pairs)

    def ended(self, children: Children) -> list[Key]:
        """Keys of the series in ``children``, those of its metric in this process, that it ends."""
        family = children.family
        if not self.is_subset:
            return [family.key(self.pairs)]
        return [key for key in list(children) if self.includes(() if key is None else family.pairs(key))]

    def encode(self) -> bytes:
        """The REMOVE record; ValueError when a record cannot hold the texts."""
        texts = [self.metric, *(text for pair in self.pairs for text in pair)]
        return fmt.encode_record(fmt.REMOVE, _HEAD.pack(self.generation, self.is_subset) + fmt.pack_texts(texts))

    @classmethod
    def decode(cls, body: bytes) -> Removal:
        """The removal in the body of a record; ValueError when the body is invalid."""
        generation, flags = _HEAD.unpack_from(body)
        metric, *rest = fmt.unpack_texts(body, _HEAD.size)
        return cls(generation, metric, tuple(zip(rest[::2], rest[1::2], strict=True)), bool(flags & fmt.SUBSET))


class Removals:
    """The removals of the epoch in ``directory``, and how far this object has read them.

    A reader gets all with :meth:`read`, an owner the new ones with :meth:`after`. Do not call both on one object.
    """

    def __init__(self, directory: Directory, shared: Shared) -> None:
        self._directory = directory
        self._shared = shared
        self._file = 0, 0
        """Inode number of the file that was read, and how often the list had been shortened."""
        self.size = 0
        """How many of its bytes were read."""
        self.known: list[Removal] = []
        """The removals that ``read`` returned last."""
        self._gaps = 0
        self._rest = b""
        self._is_cut = False

    @property
    def damaged(self) -> int:
        """Gaps between records that could not be read."""
        return self._gaps + self._is_cut

    def read(self) -> list[Removal]:
        """All removals, in order; a new list object when they changed. OSError when the file cannot be read."""
        generation = self._shared.generation  # first: removals committed by now are in the file that we read next
        known = self.known[-1].generation if self.known else 0
        file = self._file
        found = self.after(known, generation, None)
        if file not in ((0, 0), self._file):  # shortened since the last reading: some known removals may be dropped
            self._file, self.size = (0, 0), 0
            self.known, found = [], self.after(0, generation, None)
        if found:
            self.known = self.known + found  # a new list: readers hold the old one
        # A killed writer may have left bytes behind the last record: no damage unless a committed record is missing.
        is_short = generation > (self.known[-1].generation if self.known else 0)
        self._is_cut = bool(is_short and self._rest) and not find_removals(self._rest, 0, _LATEST, None)[0]
        return self.known

    def after(self, generation: int, upto: int, metrics: Mapping[str, Children] | None) -> list[Removal]:
        """Removals after ``generation``, up to ``upto``, that may end series of these metrics; OSError as in ``read``.

        Continues where the last reading ended; starts over when the list was shortened.
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
        """The file read (inode and shortenings), the position where reading continued, and the bytes from there."""
        where, shortened = self._directory.where, self._shared.shortened
        known = self._file[0] if self._file[1] == shortened else 0
        number, position, data = read_tail(where, NAME, known, self.size, MOST_BYTES)
        if self._shared.shortened != shortened:  # we may have read the file that replaced it
            number, position, data = read_tail(where, NAME, 0, 0, MOST_BYTES)
        return (number, shortened), position, data

    def append(self, metric: str, pairs: Sequence[tuple[str, str]], *, is_subset: bool) -> int:
        """Remove series; returns the removal's generation.

        Raises :class:`~mpmetrics.errors.StoreError`, with nothing removed, when the store cannot record it or another
        process holds the lock for more than half a second.
        """
        with self._directory.open() as dir_fd, Mutex("removals.lock", PATIENCE, dir_fd=dir_fd):
            generation = self._shared.generation + 1
            if generation >> 63:
                msg = f"{self._directory.path}/shared is damaged: no generation can follow {generation - 1}"
                raise StoreUnavailableError(msg)
            # The position does not move: this process has not applied the removals behind it.
            _, end, data = self._tail()
            end += find_removals(data, generation, generation - 1, {})[0]
            record = Removal(generation, metric, tuple(pairs), is_subset).encode()
            if end + len(record) > MOST_BYTES:
                msg = f"{self._directory.path}/{NAME} is full: no process folds, or one keeps long-removed series"
                raise StoreUnavailableError(msg)
            with open_regular(NAME, os.O_RDWR, dir_fd=dir_fd) as descriptor:
                # A killed writer may have left part of another record here, even one of this generation.
                os.ftruncate(descriptor, end)
                write_all(descriptor, record, end)
            self._shared.generation = generation
        return generation

    def shorten(self, needed: Collection[int]) -> None:
        """Drop the removals that were read so far, except those of the generations ``needed``.

        The caller holds the fold lock and knows that the others end no series. StoreError and OSError as above.
        """
        last = self.known[-1].generation if self.known else 0
        with self._directory.open() as dir_fd, Mutex("removals.lock", PATIENCE, dir_fd=dir_fd):
            self.read()
            kept = [each for each in self.known if each.generation > last or each.generation in needed]
            records = b"".join(removal.encode() for removal in kept)
            # Before the file is replaced: a process that still reads the old one then only knows more than it needs.
            self._shared.count_shortening()
            replace(dir_fd, NAME, self._directory.owner, lambda descriptor: write_all(descriptor, records, 0))
