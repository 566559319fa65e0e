"""The series directory's writer: how a process declares families and series, and removes them.

One object per process and epoch. The catalog is read and changed, and ``declare``, ``obtain`` and ``remove`` are
called, only within ``with directory:``, which takes the append lock and takes in what others appended. The lock covers
the threads of the process and the processes of the epoch; the wait for it is bounded, and past it
:class:`~mpmetrics.errors.LockTimeoutError` is raised. The only thing read without it is the word ``generation``.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import time
from typing import TYPE_CHECKING, Any, overload

from mpmetrics.errors import FormatError, LockTimeoutError, StoreUnavailableError
from mpmetrics.storage import format as fmt
from mpmetrics.storage import geometry, records
from mpmetrics.storage.catalog import Catalog, Family, Key, Rest, Series
from mpmetrics.storage.descriptor import Descriptor, open_regular
from mpmetrics.storage.locks import AppendLock
from mpmetrics.storage.series_file import create_series_file, fresh_series_path, write_all

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from mpmetrics._cells import Removals
    from mpmetrics.storage.holders import Holder

__all__ = ["SeriesDirectory"]

LOCK_TIMEOUT = 0.5
"""Seconds that a request may wait for another process that appends, or is stopped while it appends."""

REUSE_AT = 64
"""Series that rest before it is looked whether their slots are free."""

COMPACT_AT = 2048
"""Records that are of no use any more before the file is written anew."""


class SeriesDirectory:
    """Declare, obtain and remove series in the epoch at ``path``.

    ``survey`` tells of each slab which removed series its owner may still hold. ``on_removed`` is told first slot and
    width of series that are gone, whoever removed them, and the generation up to which that is all; ``on_reloaded`` is
    told that the catalog was read anew, as of a generation.
    """

    def __init__(
        self,
        path: str,
        *,
        removals: Removals,
        owner: tuple[int, int] | None = None,
        survey: Callable[[], list[Holder]],
        on_removed: Callable[[list[tuple[int, int]], int], None],
        on_reloaded: Callable[[Catalog, int], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.catalog = Catalog()
        self._removals = removals
        self.lock = AppendLock(os.path.join(path, "series.lock"), lambda: self.words[fmt.COMMITTED], owner)
        self._path = os.path.join(path, "series")
        self._owner = owner
        self._survey = survey
        self._on_removed = on_removed
        self._on_reloaded = on_reloaded
        self._clock = clock
        self._is_torn = self._is_half_open = False
        self._next_look = 0.0
        self._free: dict[int, list[tuple[int, Rest]]] = {}
        self._open()

    def _open(self) -> None:
        descriptor = open_regular(self._path, os.O_RDWR)
        head = os.pread(descriptor.fileno(), fmt.SERIES_HEAD_SIZE, 0)
        self.incarnation = fmt.check_series_head(head, self._path)
        self._map = mmap.mmap(descriptor.fileno(), fmt.SERIES_HEAD_SIZE)
        self._descriptor = descriptor
        self.words = memoryview(self._map).cast("Q")
        records.check_end(descriptor.fileno(), self.words, self._path, self.words[fmt.COMMITTED])
        self._removals.watch(self.words, fmt.GENERATION)
        self._trouble = memoryview(self._map).cast("d")
        self._position = fmt.SERIES_HEAD_SIZE
        self._removals.seen = 0

    @property
    def seen(self) -> int:
        """The generation up to which removals are taken in; when it is behind the file's, :meth:`sync` is due."""
        return self._removals.seen

    @property
    def generation(self) -> int:
        """The generation of removals as it stands in the file now; differs from ``seen`` when :meth:`sync` is due."""
        return self.words[fmt.GENERATION]

    def __enter__(self) -> None:
        taken = False
        try:
            taken = self.lock.acquire(LOCK_TIMEOUT)
            if not taken:
                why = f"was not to be had within {LOCK_TIMEOUT} s; is its holder stopped?"
                why = "is in use by what this signal handler or finaliser interrupted" if self.lock.is_mine else why
                raise LockTimeoutError(f"{self._path}.lock {why}")
            self._catch_up()
        except BaseException as error:
            self.lock.settle(sys._getframe(1))  # noqa: SLF001 (whose ``with`` it is)
            if isinstance(error, OSError | ValueError):
                msg = f"{self._path}{'' if taken else '.lock'} cannot be {'read' if taken else 'taken'}: {error}"
                raise StoreUnavailableError(msg) from error
            raise

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self.lock.release(error)

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
            number = fmt.check_next(self.words[fmt.NEXT_FAMILY], self.catalog.next_family, self._path)
            self._append(fmt.FAMILY, [number, family.dump()])
        return number

    @overload
    def obtain(self, number: int, key: Key, *, created: float) -> Series: ...

    @overload
    def obtain(self, number: int, key: Key, limit: int) -> Series | None: ...

    def obtain(self, number: int, key: Key, limit: int | None = None, created: float | None = None) -> Series | None:
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
            serial = fmt.check_next(self.words[fmt.NEXT_SERIAL], self.catalog.next_serial, self._path)
            made = self._clock() if created is None else created
            self._append(fmt.SERIES, [number, key, first, width, made, self._removals.seen, serial])
            series = self.catalog.series[number][key]
        return series

    def first_slot(self, name: str, key: Key) -> int | None:
        """First slot of a series of the metric ``name``, as far as this process knows. Any thread may ask."""
        catalog = self.catalog
        number = catalog.numbers.get(name)
        series = None if number is None else catalog.series[number].get(key)
        return None if series is None else series.first

    def remove(self, number: int, choose: Callable[[Collection[Key]], Iterable[Key]]) -> None:
        """Remove those series of family ``number`` that ``choose`` picks from the label values of all of them."""
        members = self.catalog.series[number]
        slots = [members[key].first for key in choose(self.catalog.keys(number))]
        if slots:
            generation = self.words[fmt.GENERATION] + 2
            # Everybody takes a changed generation for: once the lock is to be had, parse up to committed and let go of
            # what is gone. So it changes before, to one of no records, whatever ends us in between; and after, when
            # nothing can be added to the records' own any more.
            self.words[fmt.GENERATION] = generation - 1
            for start in range(0, len(slots), 1000):
                self._append(fmt.REMOVED, [generation, slots[start : start + 1000]])
            self._take_in(generation)
        if self.catalog.dead_records > COMPACT_AT + len(self.catalog.by_slot):
            with contextlib.suppress(OSError, FormatError):  # no room for another; the file is right as it is
                self._compact()

    def trouble(self, count: float) -> None:
        """Count series that this process has to keep to itself."""
        index = fmt.TROUBLE + os.getpid() % fmt.TROUBLE_WORDS
        self._trouble[index] += count

    def look_for_free_slots(self) -> None:
        """Find out, without the append lock, which slots of removed series may be given away; now and then, not always.

        Call it before ``obtain``. What is found stays true: who holds no removed series now never gets hold of one.
        """
        now = time.monotonic()
        if len(self.catalog.resting) < REUSE_AT or self._free or now < self._next_look:
            return
        slabs = self._survey()
        for first, rest in list(self.catalog.resting.items()):
            if all(slab.acknowledged >= rest.generation or slab.bound < rest.serial for slab in slabs):
                self._free.setdefault(rest.width, []).append((first, rest))
        if not self._free:
            self._next_look = now + 0.1  # someone has yet to let go

    def _allocate(self, width: int) -> int:
        free = self._free.get(width)
        while free:
            first, rest = free.pop()
            if not free:
                del self._free[width]
            if self.catalog.resting.get(first) == rest:
                return first
        return geometry.fit(fmt.check_next(self.words[fmt.NEXT_SLOT], self.catalog.next_slot, self._path), width)

    def _append(self, kind: int, body: list[Any]) -> None:
        record = records.encode_record(kind, body)
        committed = self._position
        fmt.check_room(committed + len(record), self._path)
        try:
            self.lock.check()
            write_all(self._descriptor.fileno(), record, committed)
        except OSError as error:
            raise StoreUnavailableError(f"{self._path} cannot take another record: {error}") from error
        if kind == fmt.SERIES:
            self.words[fmt.NEXT_SLOT] = max(self.words[fmt.NEXT_SLOT], body[2] + body[3])
            self.words[fmt.NEXT_SERIAL] = body[6] + 1
        elif kind == fmt.FAMILY:
            self.words[fmt.NEXT_FAMILY] = max(self.words[fmt.NEXT_FAMILY], body[0] + 1)
        self._is_torn = True
        self.catalog.take(kind, body)  # what this process itself would not believe, nobody gets to see
        self.lock.check()
        # The commit: readers parse up to here and never further.
        self.words[fmt.COMMITTED] = committed + len(record)
        self._position = committed + len(record)
        self._is_torn = False

    def _catch_up(self) -> None:
        """Take in what others appended; cut short, by an exception or a fork, it is all done anew next time."""
        if self._is_half_open or self.words[fmt.SUPERSEDED]:
            self._reopen()
        if self._is_torn:
            self._reload()
        generation = self.words[fmt.GENERATION]
        committed = fmt.check_committed(self.words, self._descriptor.fileno(), self._path, self._position)
        known = fmt.check_next(generation, self._removals.seen, self._path, fmt.MAX_COUNT)
        if committed != self._position or generation != self._removals.seen:
            self._is_torn = True
            self._parse(committed)
            # Whoever removed series and was killed before it said so left the word behind its records.
            self._take_in(max(known, self.catalog.generation, self.catalog.youngest))
            self._is_torn = False

    def _parse(self, committed: int) -> None:
        """Apply the records up to ``committed``."""
        data = os.pread(self._descriptor.fileno(), committed - self._position, self._position)
        for _, kind, body in records.decode_records(data):
            self.catalog.apply(kind, body)
        self._position = committed

    def _take_in(self, generation: int) -> None:
        """Have what is gone up to ``generation`` let go of; cut short, it is all done again next time."""
        self.words[fmt.GENERATION] = generation
        self._on_removed(self.catalog.gone.copy(), generation)
        self.catalog.gone.clear()
        self._removals.seen = generation

    def _reopen(self) -> None:
        """The file was compacted, or a compaction of it was cut short; or it is the parent's, and we have none."""
        if not self._is_half_open and os.stat(self._path).st_ino == os.fstat(self._descriptor.fileno()).st_ino:
            self.words[fmt.SUPERSEDED] = 0
            return
        self._is_torn = self._is_half_open = True
        self._open()
        self._is_half_open = False

    def _reload(self) -> None:
        """Parse the whole file anew, and have what is not in it let go of."""
        self.catalog = Catalog()
        self._free.clear()
        self._position = fmt.SERIES_HEAD_SIZE
        generation = self.words[fmt.GENERATION]
        self._parse(fmt.check_committed(self.words, self._descriptor.fileno(), self._path))
        generation = self.words[fmt.GENERATION] = max(generation, self.catalog.generation, self.catalog.youngest)
        self._on_reloaded(self.catalog, generation)
        self.catalog.gone.clear()
        self._removals.seen = generation
        self._is_torn = False

    def _compact(self) -> None:
        new = fresh_series_path(os.path.dirname(self._path))
        generation = self.words[fmt.GENERATION] + 1
        head, trouble = (self.incarnation + 1, generation), self._trouble[fmt.TROUBLE :].tobytes()
        os.close(create_series_file(new, self.catalog, head, self._owner, self.words, trouble))
        # From here whoever looks opens the name again; a kill before the rename leaves them where they are.
        self.words[fmt.SUPERSEDED] = 1
        self.words[fmt.GENERATION] = generation
        try:
            os.rename(new, self._path)
        except OSError:
            with contextlib.suppress(OSError):  # the next compaction removes it
                os.unlink(new)
        self._reopen()
        self._catch_up()

    def after_fork_in_child(self) -> None:
        """The map and the descriptor may be shared with the parent; the lock may not."""
        if self.lock.is_mine:
            # Forked by a signal handler that interrupted us: the parent goes on with it, the child without a file.
            self.words = memoryview(bytearray(self.words)).cast("Q")
            self.words[fmt.SUPERSEDED] = 1
            self._descriptor = Descriptor(-1)
            self._is_half_open = True
        self.lock.forget()

    def close(self) -> None:
        """Close the files. The object is of no use afterwards."""
        self._removals.watch(None, 0)
        self.lock.close()
        self._descriptor.close()
