"""The series directory's writer: how a process declares families and series, and removes them.

One object per process and epoch. The catalog is read and changed, and ``declare``, ``obtain`` and ``remove`` are
called, only within ``with directory:``, which takes the append lock and takes in what others appended. The lock covers
the threads of the process and the processes of the epoch; the wait for it is bounded, and past it
:class:`~mpmetrics.errors.LockTimeoutError` is raised. The only thing read without it is the word ``generation``.
"""

from __future__ import annotations

import mmap
import os
import secrets
import time
from typing import TYPE_CHECKING, Any, overload

from mpmetrics.errors import LockTimeoutError, StoreUnavailableError
from mpmetrics.storage import format as fmt
from mpmetrics.storage import geometry
from mpmetrics.storage.catalog import Catalog, Family, Key, Series
from mpmetrics.storage.descriptor import Descriptor
from mpmetrics.storage.locks import AppendLock
from mpmetrics.storage.series_file import create_series_file, write_all

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

__all__ = ["SeriesDirectory"]

LOCK_TIMEOUT = 0.5
"""Seconds that a request may wait for another process that appends, or is stopped while it appends."""

REUSE_AT = 64
"""Series that rest before it is looked whether their slots are free."""

COMPACT_AT = 2048
"""Records that are of no use any more before the file is written anew."""


class SeriesDirectory:
    """Declare, obtain and remove series in the epoch at ``path``.

    ``quiet`` answers up to which generation every slab and the retired file have let go of removed series;
    ``on_removed`` is told of series that are gone, whoever removed them, with the generation they went in.
    """

    def __init__(
        self,
        path: str,
        *,
        owner: tuple[int, int] | None = None,
        quiet: Callable[[], int],
        on_removed: Callable[[list[Series], int], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.catalog = Catalog()
        self.lock = AppendLock(os.path.join(path, "series.lock"), lambda: self.words[fmt.COMMITTED], owner)
        self._path = os.path.join(path, "series")
        self._owner = owner
        self._quiet = quiet
        self._on_removed = on_removed
        self._clock = clock
        self._is_torn = False
        self._next_quiet_check = 0.0
        self._quiet_generation = 0
        self._reusable: dict[int, list[int]] = {}
        self._open()

    def _open(self) -> None:
        descriptor = Descriptor(os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK))
        head = os.pread(descriptor.fileno(), fmt.SERIES_HEAD_SIZE, 0)
        self.incarnation = fmt.check_series_head(head, self._path)
        self._map = mmap.mmap(descriptor.fileno(), fmt.SERIES_HEAD_SIZE)
        self._descriptor = descriptor
        self.words = memoryview(self._map).cast("Q")
        self._trouble = memoryview(self._map).cast("d")
        self._position = fmt.SERIES_HEAD_SIZE
        self.seen = 0

    @property
    def generation(self) -> int:
        """The generation of removals as it stands in the file now; differs from ``seen`` when :meth:`sync` is due."""
        return self.words[fmt.GENERATION]

    def __enter__(self) -> None:
        try:
            taken = self.lock.acquire(LOCK_TIMEOUT)
        except OSError as error:
            msg = f"{self._path}.lock cannot be opened: {error}"
            raise StoreUnavailableError(msg) from error
        if not taken:
            msg = f"{self._path}.lock was not to be had within {LOCK_TIMEOUT} s; is its holder stopped?"
            raise LockTimeoutError(msg)
        try:
            self._catch_up()
        except OSError as error:
            self.lock.release()
            msg = f"{self._path} cannot be read: {error}"
            raise StoreUnavailableError(msg) from error
        except BaseException:
            self.lock.release()
            raise

    def __exit__(self, *_: object) -> None:
        self.lock.release()

    def sync(self) -> None:
        """Take in what other processes appended; LockTimeoutError or StoreUnavailableError when that cannot be done."""
        with self:
            pass

    def declare(self, family: Family) -> int:
        """Number of ``family``, appended unless an equal one is there.

        Raises :class:`~mpmetrics.errors.ConflictError` when its name is taken by a different one, and a
        :class:`~mpmetrics.errors.StoreError` when the store cannot take it; nothing is changed then.
        """
        number = self.catalog.check(family)
        if number is None:
            number = max(self.catalog.next_family, self.words[fmt.NEXT_FAMILY])
            self._append(fmt.FAMILY, [number, family.dump()])
        return number

    @overload
    def obtain(self, number: int, key: Key) -> Series: ...

    @overload
    def obtain(self, number: int, key: Key, limit: int) -> Series | None: ...

    def obtain(self, number: int, key: Key, limit: int | None = None) -> Series | None:
        """The series ``key`` of family ``number``, made unless it is there; None where the family has ``limit`` others.

        Raises a :class:`~mpmetrics.errors.StoreError` when the store cannot take it; nothing is changed then.
        """
        members = self.catalog.series[number]
        series = members.get(key)
        if series is None:
            if limit is not None and key is not None and len(members) - (None in members) >= limit:
                return None
            width = self.catalog.families[number].width
            first = self._allocate(width)
            self._append(fmt.SERIES, [number, key, first, width, self._clock()])
            series = self.catalog.series[number][key]
        return series

    def remove(self, number: int, choose: Callable[[Collection[Key]], Iterable[Key]]) -> None:
        """Remove those series of family ``number`` that ``choose`` picks from the label values of all of them."""
        members = self.catalog.series[number]
        slots = [members[key].first for key in choose(members.keys())]
        generation = self.words[fmt.GENERATION] + 1
        for start in range(0, len(slots), 1000):
            self._append(fmt.REMOVED, [generation, slots[start : start + 1000]])
        if slots:
            # Readers and other writers take a changed generation for: parse up to committed, drop what is gone.
            self.words[fmt.GENERATION] = generation
            self.seen = generation
        if self.catalog.dead_records > COMPACT_AT + len(self.catalog.by_slot):
            self._compact()

    def trouble(self, count: float) -> None:
        """Count series that this process has to keep to itself."""
        index = fmt.TROUBLE + os.getpid() % fmt.TROUBLE_WORDS
        self._trouble[index] += count

    def _allocate(self, width: int) -> int:
        free = self._reusable.get(width)
        if not free and self.catalog.resting:
            free = self._find_reusable(width)
        while free:
            first = free.pop()
            rest = self.catalog.resting.get(first)
            if rest is not None and rest[1] == width and rest[0] <= self._quiet_generation:
                return first
        return geometry.fit(max(self.catalog.next_slot, self.words[fmt.NEXT_SLOT]), width)

    def _find_reusable(self, width: int) -> list[int]:
        now = time.monotonic()
        # Looking at every slab is the dear part: only for a number of slots at a time, and not at once again while
        # someone has yet to let go.
        if len(self.catalog.resting) < REUSE_AT or now < self._next_quiet_check:
            return []
        self._quiet_generation = self._quiet()
        self._reusable.clear()
        for first, (generation, size) in self.catalog.resting.items():
            if generation <= self._quiet_generation:
                self._reusable.setdefault(size, []).append(first)
        if not self._reusable:
            self._next_quiet_check = now + 0.1
        return self._reusable.get(width, [])

    def _append(self, kind: int, body: list[Any]) -> None:
        record = fmt.encode_record(kind, body)
        committed = self._position
        try:
            write_all(self._descriptor.fileno(), record, committed)
        except OSError as error:
            msg = f"{self._path} cannot take another record: {error}"
            raise StoreUnavailableError(msg) from error
        removed = self._removed_by(kind, body)
        if kind == fmt.SERIES:
            self.words[fmt.NEXT_SLOT] = max(self.words[fmt.NEXT_SLOT], body[2] + body[3])
        elif kind == fmt.FAMILY:
            self.words[fmt.NEXT_FAMILY] = max(self.words[fmt.NEXT_FAMILY], body[0] + 1)
        # The commit: readers parse up to here and never further.
        self.words[fmt.COMMITTED] = committed + len(record)
        self.catalog.apply(kind, body)
        self._position = committed + len(record)
        if removed:
            self._on_removed(removed, body[0])

    def _removed_by(self, kind: int, body: list[Any]) -> list[Series]:
        if kind != fmt.REMOVED:
            return []
        return [self.catalog.by_slot[first] for first in body[1] if first in self.catalog.by_slot]

    def _catch_up(self) -> None:
        if self.words[fmt.SUPERSEDED]:
            self._reopen()
        if self._is_torn:
            self._reload()
        generation = self.words[fmt.GENERATION]
        committed = fmt.check_committed(self.words[fmt.COMMITTED], self._descriptor.fileno(), self._path)
        if committed != self._position:
            removed = self._parse(committed)
            self._tell(removed, generation)
        self.seen = generation

    def _tell(self, removed: list[Series], generation: int) -> None:
        """Report what was removed by others; even if nothing was, that all of it is taken in."""
        if removed or generation != self.seen:
            self._on_removed(removed, generation)

    def _parse(self, committed: int) -> list[Series]:
        data = os.pread(self._descriptor.fileno(), committed - self._position, self._position)
        removed: list[Series] = []
        for _, kind, body in fmt.decode_records(data):
            if kind == fmt.REMOVED and body is not None:
                removed += self._removed_by(kind, body)
            self.catalog.apply(kind, body)
        self._position = committed
        return removed

    def _reopen(self) -> None:
        """The file was compacted, or a compaction of it was cut short."""
        if os.stat(self._path).st_ino == os.fstat(self._descriptor.fileno()).st_ino:
            self.words[fmt.SUPERSEDED] = 0
            return
        self._open()
        self._reload()

    def _reload(self) -> None:
        """Parse the whole file anew, and let go of what is not in it."""
        old, self.catalog = self.catalog, Catalog()
        self._reusable.clear()
        self._is_torn = False
        self._position = fmt.SERIES_HEAD_SIZE
        generation = self.words[fmt.GENERATION]
        self._parse(fmt.check_committed(self.words[fmt.COMMITTED], self._descriptor.fileno(), self._path))
        self._tell(self.catalog.missing(old), generation)

    def _compact(self) -> None:
        path = os.path.dirname(self._path)
        for name in os.listdir(path):
            if name.startswith("new-series-"):  # of a compaction that was cut short: nobody else is in here
                os.unlink(os.path.join(path, name))
        new = os.path.join(path, f"new-series-{secrets.token_hex(16)}")
        generation = self.words[fmt.GENERATION] + 1
        try:
            descriptor = create_series_file(new, self.catalog, (self.incarnation + 1, generation), self._owner)
        except OSError:
            return  # no room for a second copy now; the file is right as it is
        os.pwrite(descriptor, self._trouble[fmt.TROUBLE :].tobytes(), fmt.TROUBLE * fmt.WORD)
        os.close(descriptor)
        # From here whoever looks opens the name again; a kill before the rename leaves them where they are.
        self.words[fmt.SUPERSEDED] = 1
        self.words[fmt.GENERATION] = generation
        try:
            os.rename(new, self._path)
        except OSError:
            os.unlink(new)
        self._reopen()
        self.seen = self.words[fmt.GENERATION]

    def after_fork_in_child(self) -> None:
        """The map and the descriptor may be shared with the parent; the lock may not.

        A thread that was in the middle of a change to the catalog is not here to finish it.
        """
        self._is_torn = self._is_torn or self.lock.is_held
        self.lock.forget()

    def close(self) -> None:
        """Close the files. The object is of no use afterwards."""
        self.lock.close()
        self._descriptor.close()
