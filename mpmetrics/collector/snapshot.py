"""A consistent view of an epoch: the words of every process and of the retired file, at one moment.

The reader takes no lock. It looks at the retired file, lists and reads the slabs that are not in it, and looks again:
if the retired file was replaced meanwhile, it starts over, so that a value is never counted twice and never missing
while a folder moves it. After a bounded number of attempts it keeps folders out for a moment. Series that came or went
while the slabs were read are left out of this view: their slots may have changed hands in the middle.
"""

from __future__ import annotations

import contextlib
import errno
import os
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mpmetrics.errors import FormatError, LockTimeoutError
from mpmetrics.storage.catalog import Catalog
from mpmetrics.storage.descriptor import Descriptor
from mpmetrics.storage.exclusive import mutex
from mpmetrics.storage.reader import SeriesReader, SlabReader
from mpmetrics.storage.retired import Retired, is_same, join, read_retired, retired_identity
from mpmetrics.storage.survey import SlabName, list_slabs

if TYPE_CHECKING:
    from mpmetrics._cells.vectors import Vector

__all__ = ["Column", "EpochReader", "Snapshot"]

ATTEMPTS = 10
LOST = "it was removed, and what the dead had counted went with it"
_NONE = array("q")


@dataclass(slots=True)
class Column:
    """The words of one process, slot 0 first; slots past the end are zero."""

    ordinal: int
    alive: bool
    created: float
    words: Vector
    identity: str = ""


@dataclass
class Snapshot:
    """What an epoch held at one moment. ``columns`` are ordered by ordinal, and by age within one."""

    catalog: Catalog = field(default_factory=Catalog)
    columns: list[Column] = field(default_factory=list)
    retired: Retired = field(default_factory=Retired)
    unsettled: frozenset[int] = frozenset()
    """First slots of series that came or went while the words were read."""
    unreadable: dict[str, str] = field(default_factory=dict)
    trouble: float = 0.0
    files: int = 0
    size: int = 0


class EpochReader:
    """Takes snapshots of the epoch at ``path``, keeping files open between them; one thread at a time."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._series: SeriesReader | None = None
        self._slabs: dict[str, SlabReader] = {}
        self._orphans: dict[str, SlabReader] = {}
        """Slabs whose file somebody removed under their living owners: they are read for as long as this reader is."""
        self._retired = Retired()
        self._retired_file = Descriptor(-1)
        self._is_torn = False
        self._births: dict[str, int] = {}
        """The births of all retired files that were read, of which there is to be nothing missing."""

    def snapshot(self) -> Snapshot:
        """The epoch as it is now. What cannot be read is left out and named in ``unreadable``; OSError never."""
        if self._is_torn:
            self._begin_anew()
        self._is_torn = True
        snapshot = self._whole()
        self._is_torn = False
        return snapshot

    def _begin_anew(self) -> None:
        """The last snapshot was cut short, by an exception out of a signal handler: trust nothing that it read."""
        self._series = None
        for file, reader in self._slabs.items():
            with contextlib.suppress(OSError, ValueError):  # closed already
                if reader.is_orphaned:
                    self._orphans[file] = reader
        self._slabs = {}

    def _whole(self) -> Snapshot:
        for _ in range(ATTEMPTS):
            snapshot = self._attempt()
            if snapshot is not None:
                return snapshot
        try:
            with mutex(os.path.join(self.path, "fold.lock"), 1.0):
                return self._attempt(last=True) or Snapshot()
        except (OSError, LockTimeoutError):
            return self._attempt(last=True) or Snapshot()

    def _attempt(self, *, last: bool = False) -> Snapshot | None:
        """A snapshot, or None when folding came in between and it is not the ``last`` attempt."""
        snapshot = Snapshot()
        retired = retired_identity(self.path)
        self._read_retired(retired, snapshot)
        self._read_series(snapshot)
        if self._series is not None:
            snapshot.catalog.touched.clear()
        complete = self._read_slabs(snapshot)
        if not last and (not complete or retired != retired_identity(self.path)):
            return None
        if self._series is not None:
            self._read_series(snapshot)
            snapshot.unsettled = frozenset(snapshot.catalog.touched)
        self._measure(snapshot)
        return snapshot

    def _read_retired(self, identity: tuple[int, int], snapshot: Snapshot) -> None:
        if not is_same(self._retired_file, identity):
            try:
                self._take_retired()
            except (OSError, FormatError) as error:  # what was read last stands
                snapshot.unreadable["retired"] = str(error)
        if not self._retired.covers(self._births):
            snapshot.unreadable.setdefault("retired", LOST)
        snapshot.retired = self._retired

    def _take_retired(self) -> None:
        retired, file = read_retired(self.path)
        if self._births and not retired.births:
            raise FileNotFoundError(errno.ENOENT, "it was removed, and is shown as it was read last")
        self._births = join(self._births, retired.births)
        self._retired, self._retired_file = retired, file

    def _read_series(self, snapshot: Snapshot) -> None:
        try:
            if self._series is None:
                self._series = SeriesReader(self.path)
            self._series.sync()
        except (OSError, FormatError) as error:
            snapshot.unreadable["series"] = str(error)
            self._series = None
            return
        snapshot.catalog = self._series.catalog
        snapshot.trouble = self._series.trouble

    def _read_slabs(self, snapshot: Snapshot) -> bool:
        catalog = snapshot.catalog
        complete = True
        readers: dict[str, SlabReader] = {}
        try:
            names = list_slabs(self.path)
        except OSError as error:
            snapshot.unreadable["."] = str(error)
            names = self._known(snapshot)
        for name in names:
            if name.identity in snapshot.retired.slabs:
                continue
            try:
                reader = self._slabs.pop(name.file, None) or SlabReader(os.path.join(self.path, name.file))
                readers[name.file] = reader
                alive = reader.alive
                words = reader.read(catalog.next_slot, catalog.spans if alive else _NONE)
            except FileNotFoundError:
                complete = False  # folded since we listed it
            except (OSError, FormatError) as error:
                snapshot.unreadable[name.file] = str(error)
            else:
                snapshot.columns.append(Column(reader.ordinal, alive, reader.created, words, name.identity))
        for file, reader in self._slabs.items():
            if reader.is_orphaned:
                self._orphans[file] = reader
            else:
                reader.close()
        self._slabs = readers
        self._read_orphans(snapshot)
        snapshot.columns.sort(key=lambda column: (column.ordinal, column.created))
        return complete

    def _known(self, snapshot: Snapshot) -> list[SlabName]:
        """The slabs of last time, where the directory cannot be listed: a scraper takes less for a restart.

        What a dead one without a name counted is in the retired file, unless that could not be read either.
        """
        is_blind = "retired" in snapshot.unreadable
        return [
            SlabName(file, reader.ordinal, reader.identity)
            for file, reader in self._slabs.items()
            if is_blind or reader.alive or not reader.is_removed
        ]

    def _read_orphans(self, snapshot: Snapshot) -> None:
        for name, reader in self._orphans.items():
            snapshot.unreadable[name] = (
                f"{reader.path}: was removed while its owner writes to it; what that process counts is shown until this"
                " collector ends, and lost then"
            )
            with contextlib.suppress(OSError, FormatError):
                alive = reader.alive
                # Before the words. Its owner makes the words of removed series zero, then says so, then says which
                # series it holds, then writes to that one: what it says now holds for all words that are read later.
                # A series that it comes to hold in between is missing this once, which has never been shown yet. The
                # other way round, what it counted in a removed series would be shown as that series'.
                acknowledged, bound = reader.acknowledged, reader.bound
                words = reader.read(snapshot.catalog.next_slot, snapshot.catalog.spans if alive else _NONE)
                words = _held(words, snapshot.catalog, acknowledged, bound)
                snapshot.columns.append(Column(reader.ordinal, alive, reader.created, words, reader.identity))

    def _measure(self, snapshot: Snapshot) -> None:
        try:
            with os.scandir(self.path) as entries:
                for entry in entries:
                    snapshot.files += 1
                    snapshot.size += entry.stat(follow_symlinks=False).st_blocks * 512
        except OSError:
            return  # something vanished meanwhile; the figures are of what was seen

    def close(self) -> None:
        """Close all files."""
        for reader in self._slabs.values():
            reader.close()
        self._slabs = {}
        for reader in self._orphans.values():
            reader.close()
        self._orphans = {}
        if self._series is not None:
            self._series.close()
            self._series = None
        self._retired_file.close()


def _held(words: Vector, catalog: Catalog, acknowledged: int, bound: int) -> Vector:
    """The words, without those of series that their owner never held but whose slots hold something of its.

    Those are series with serials above ``bound``, in slots of others that were removed after what it ``acknowledged``.
    Who gives slots of removed series away asks those whose slabs it finds whether they have let go of them.
    """
    others = [series for series in catalog.younger(acknowledged) if series.serial > bound]
    if not others:
        return words
    held = array("d", words)
    for series in others:
        end = series.first + series.width
        if end <= len(held):
            held[series.first : end] = array("d", bytes(8 * series.width))
    return held
