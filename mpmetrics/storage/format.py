"""The bytes of a store: the specification, and the code that packs and checks them. A test holds one against the other.

A store is a directory::

    lock                   begin lock: taken to begin or join an epoch, and to clean up dead ones
    epoch-N/               one server's life; N, the Unix time of its start in ms, is the highest of the current one
        lease              every process of the epoch holds a shared flock on it: no holder, dead epoch
        series             the series directory
        series.lock        append lock: taken to append to ``series`` and to link a slab
        fold.lock          fold lock: taken to replace ``retired``
        retired            what dead processes counted
        slab-O-ID          the slab of one process: ordinal O, identity ID (32 hex digits)
        ask-O-ID           the socket at which the owner of slab-O-ID is asked to run its callbacks
        metrics.sock       the socket at which the collector serves the metrics
        collector.lock     held by the collector that serves them
        new-WHAT-ID        a slab, series or retired file or a socket that is being made; no reader opens it

Directories have mode 0700, files 0600; all belong to the owner of the store's directory. All numbers are in the
machine's byte order (a store never leaves its host); a file of the other order fails its magic.

Every word that two processes touch at a time is 8 bytes long, 8-byte aligned, and is loaded and stored whole.

Series directory
----------------

===========  ======  =====================================================================================
offset       type    field
===========  ======  =====================================================================================
0            8s      magic ``MPMSERIE``
8            u32     format version, 1
12           u32     size of the head, 4096
16           u64     incarnation: 1, and one more with each compaction
24           u32     CRC-32 of bytes 0 to 23
28           u32     zero
32           u64     committed: offset of the first byte past the last valid record
40           u64     generation: grows before each batch of removals and, to theirs, after it
48           u64     superseded: 1 once a compacted file is about to take this file's name
56           u64     slots: the first slot that was never given to a series
64           u64     families: the first number that was never given to a family
72           u64     serials: the first serial that was never given to a series
80           u64[]   six words, zero
128          f64[]   496 trouble words: see below
4096         ...     records
===========  ======  =====================================================================================

A record is a head of 16 bytes and a body, padded with zeros to a multiple of 8:

===========  ======  =====================================================================================
offset       type    field
===========  ======  =====================================================================================
0            u32     magic 0x4D50524B
4            u32     length of the body in bytes, without padding
8            u32     CRC-32 of kind and body
12           u32     kind: 1 FAMILY, 2 SERIES, 3 REMOVED, 4 FREE
===========  ======  =====================================================================================

The body is a JSON array in ASCII:

* FAMILY ``[id, fields]``: a metric; ``fields`` as in :class:`mpmetrics.storage.catalog.Family`.
* SERIES ``[family id, label values or null, first slot, slots, created, generation, serial]``: ``null`` is the overflow
  series; ``created`` is a Unix time in seconds; ``generation`` is that of the head when it was made; ``serial`` is
  greater than that of all series made before.
* REMOVED ``[generation, [first slot, ...]]``: these series are gone; their slots rest until nobody can write to them.
* FREE ``[generation, first slot, slots, serial]``: written by a compaction, a range that is resting or free.

The slots of a removed series may be given to another one once each slab either acknowledges the generation of the
removal, or has ``bound`` no series as late as this one. What the retired file holds in them is not the new series':
values in it count for a series only if the file's generation is not below that of the series.

Writer: holding the append lock, reads what others appended, writes the record past ``committed``, then stores
``committed``. That store is the commit: readers never look past it, and a writer that is killed before it leaves
bytes that the next one overwrites. ``slots``, ``families`` and ``serials`` are stored before it, so that what a record
gave out is not given out again even if the record is damaged later. Reader: loads ``committed`` and parses up to it,
without a lock; a stale value only means that a record is seen at the next look. A record that fails its checks, or
whose text UTF-8 cannot carry, costs itself alone: the reader goes on at the next 8-byte boundary at which a valid
record starts, and counts the gap.

Compaction, holding the append lock: a new file with the live families, series and the free ranges is written beside
the old one; the old one's ``superseded`` is set; the new one is renamed over it. Whoever meets ``superseded`` opens the
name again, and if that still is the same file (the compaction was cut short) goes on with it.

The trouble words count what processes could not put into the store. Each process picks a word by its process id and
adds to it without a lock: the sum is a diagnosis, not an account.

Limits: a file has at most 2^28 bytes, a store 2^27 slots. A series' first slot is at most 2^22 behind the last one
that was given out before it, its slots lie within one segment of a slab, and generations and serials are below 2^53. A
record that says otherwise makes no sense, as does one whose slots are another series' already; the latter would mix
the values of two series. There is one exception: where records are damaged, a later series in exactly the slots of
one shows that this one was removed, by a record that is lost.

A reader that finds ``committed`` impossible, or two whole records behind it, where a killed writer leaves one at most,
takes it for damaged and reads as far as records go. A writer that finds this keeps its series to itself.

Slab
----

===========  ======  =====================================================================================
offset       type    field
===========  ======  =====================================================================================
0            8s      magic ``MPMSLAB_``
8            u32     format version, 1
12           u32     size of the head, 128
16           16s     identity, random bytes, the ID of the file's name
32           u64     ordinal
40           u64     process id, a label only
48           f64     creation, Unix time in seconds
56           u32     CRC-32 of bytes 0 to 55
60           u32     zero
64           u64     capacity: bytes of the file that are allocated and hold slots (head included)
72           u64     generation up to which the owner has let go of removed series
80           u64     bound: the greatest serial of a series that the owner has ever held
88           u64[]   five words, zero
128          f64[]   slots, slot 0 first
===========  ======  =====================================================================================

Capacity is 4096 bytes, doubled with each growth up to 2 MiB, then grown by 1 MiB at a time. Blocks are allocated
before ``capacity`` is stored, so that no store to a slot can meet a full disk. The owner holds an exclusive flock on
the file for life: an unlocked slab is a dead process's. Only the owner writes; only a slab of this head is ever linked.
Ordinals from 900,000,000 belong to processes beside the workers, such as the collector.

What the slots of a series hold, by the kind of its family:

* counter, up-down counter with mode ``sum``: one word, the sum of what was added.
* gauge, up-down counter with mode ``livesum``: one word. All bits zero: never set. A value of zero is stored as -0.0.
* gauge ``mostrecent``, ``livemostrecent``, enum, info: four words ``value, time, value, time``. The pair with the later
  time counts; a writer overwrites the other one, value first: its time is the commit.
* histogram, summary: ``sum, sum, bucket, ...``. Buckets are not cumulative. With n the sum of the buckets, the sum of
  the observations is the first word where n is even and the second where it is odd: a writer stores the new sum into
  the word that does not count yet, then the bucket, which is the commit. A summary has one bucket.
* sketch: two records of six words ``sum, rest, sum of squares, rest, minimum, maximum``, then buckets on a log scale
  (:mod:`mpmetrics._cells.sketch`). The first record counts where the sum of the buckets is even and the second where it
  is odd: a writer fills the record that does not count yet, then adds to the bucket, which is the commit. A sum is its
  word and its rest together. Minimum and maximum of all bits zero: no value yet. A value of zero is stored as -0.0.

A writer killed between any two stores leaves the series as before its last operation. A reader of several words reads
them twice and takes them when nothing changed in between, else tries again, a bounded number of times.

Retired file
------------

===========  ======  =====================================================================================
offset       type    field
===========  ======  =====================================================================================
0            8s      magic ``MPMRETIR``
8            u32     format version, 1
12           u32     size of the head, 64
16           u64     slots
24           u64     length of the tail in bytes
32           u64     generation of the series directory up to which removed series were left out
40           u64     incarnation of this file: one more with each fold
48           u32     CRC-32 of everything from 64 to the end
52           u32     CRC-32 of bytes 0 to 51
64           f64[]   values by slot
...          f64[]   remainders by slot: the exact sum less the value, so that folding loses nothing
...          ...     tail: JSON ``{"slabs": [ID], "all": [[slot, ordinal, value]], "folded": n, "births": {name: n}}``
===========  ======  =====================================================================================

``slabs`` names what the file contains: a slab of that name is never counted again, even if it could not be unlinked.
``all`` holds the gauges of mode ``all`` by ordinal, values in ``float.hex`` form; ``folded`` counts all slabs ever
folded. ``births`` have names of 16 random hex digits: a file that began from nothing has one, with 1, and each fold
adds one to the last. One that was removed and is put back, or added to what others began, makes a file with the births
of both and a new one. A file holds all of another one when it has each of its births, none with a smaller number, and
nothing of one with which it has none in common. Each is written under another name and renamed into place, which is the
commit, and never changed. Histograms and summaries have their sum in the first word only, sketches in the first record.
"""

from __future__ import annotations

import os
import struct
import sys
import zlib
from typing import Final

from mpmetrics.errors import FormatError

__all__ = ["FAMILY", "FREE", "REMOVED", "SERIES", "pack_series_head", "pack_slab_head"]

VERSION: Final = 1
WORD: Final = 8
BYTE_ORDER: Final = sys.byteorder

SERIES_MAGIC: Final = b"MPMSERIE"
SERIES_HEAD: Final = struct.Struct("=8sIIQ")
SERIES_HEAD_SIZE: Final = 4096
COMMITTED: Final = 32 // WORD
GENERATION: Final = 40 // WORD
SUPERSEDED: Final = 48 // WORD
NEXT_SLOT: Final = 56 // WORD
NEXT_FAMILY: Final = 64 // WORD
NEXT_SERIAL: Final = 72 // WORD
TROUBLE: Final = 128 // WORD
TROUBLE_WORDS: Final = (SERIES_HEAD_SIZE - 128) // WORD

RECORD_MAGIC: Final = 0x4D50524B
RECORD_HEAD: Final = struct.Struct("=IIII")
FAMILY: Final = 1
SERIES: Final = 2
REMOVED: Final = 3
FREE: Final = 4
KINDS: Final = frozenset((FAMILY, SERIES, REMOVED, FREE))
MAX_BODY: Final = 1 << 20
MAX_SERIES_FILE: Final = 1 << 28
MAX_SLOTS: Final = 1 << 27
MAX_GAP: Final = 1 << 22
MAX_COUNT: Final = 1 << 53

SLAB_MAGIC: Final = b"MPMSLAB_"
SLAB_HEAD: Final = struct.Struct("=8sII16sQQd")
SLAB_HEAD_SIZE: Final = 128
CAPACITY: Final = 64 // WORD
ACKNOWLEDGED: Final = 72 // WORD
BOUND: Final = 80 // WORD
BESIDE: Final = 900_000_000
FIRST_SEGMENT: Final = 4096
MAX_SEGMENT: Final = 1 << 20
MAX_CAPACITY: Final = 2 * MAX_SEGMENT + WORD * MAX_SLOTS

RETIRED_MAGIC: Final = b"MPMRETIR"
RETIRED_HEAD: Final = struct.Struct("=8sIIQQQQI")
RETIRED_HEAD_SIZE: Final = 64

_CRC: Final = struct.Struct("=I")


def pack_series_head(incarnation: int) -> bytes:
    """Bytes 0 to 27 of a series directory."""
    static = SERIES_HEAD.pack(SERIES_MAGIC, VERSION, SERIES_HEAD_SIZE, incarnation)
    return static + _CRC.pack(zlib.crc32(static))


def check_series_head(head: bytes, where: str) -> int:
    """Return the incarnation, or raise :class:`FormatError` that names ``where`` and what is wrong."""
    _check_head(head, SERIES_HEAD.size, SERIES_MAGIC, where)
    check_series_size(len(head), where)
    return int(SERIES_HEAD.unpack_from(head)[3])


def check_series_size(size: int, where: str) -> None:
    """Raise :class:`FormatError` when a series directory of so many bytes is shorter than its head."""
    if size < SERIES_HEAD_SIZE:
        msg = f"{where}: {size} bytes are too few for a head"
        raise FormatError(msg)


def check_room(end: int, where: str) -> None:
    """Raise :class:`FormatError` when no series directory may be so long."""
    if end > MAX_SERIES_FILE:
        msg = f"{where}: is full: it may have {MAX_SERIES_FILE} bytes"
        raise FormatError(msg)


def check_committed(words: memoryview, descriptor: int, where: str, least: int = SERIES_HEAD_SIZE) -> int:
    """The word ``committed``; :class:`FormatError` when it cannot be that, after having been ``least`` before."""
    committed = int(words[COMMITTED])
    size = os.fstat(descriptor).st_size
    if committed % WORD or not least <= committed <= min(size, MAX_SERIES_FILE):
        msg = f"{where}: says that {committed} bytes of it are valid, of {size}, after {least}"
        raise FormatError(msg)
    return committed


def check_next(word: int, known: int, where: str, gap: int = MAX_GAP) -> int:
    """The first number that was never given out, by a word of the head and by the records.

    :class:`FormatError` when they differ by more than ``gap``: no reader would believe a record with such a number.
    """
    if word > known + gap:
        msg = f"{where}: its head is damaged: it says that {word} is next, after {known}"
        raise FormatError(msg)
    return max(word, known)


def pack_slab_head(identity: bytes, ordinal: int, pid: int, created: float) -> bytes:
    """Bytes 0 to 59 of a slab."""
    static = SLAB_HEAD.pack(SLAB_MAGIC, VERSION, SLAB_HEAD_SIZE, identity, ordinal, pid, created)
    return static + _CRC.pack(zlib.crc32(static))


def check_slab_head(head: bytes, where: str) -> tuple[bytes, int, int, float]:
    """Return identity, ordinal, process id and creation time, or raise :class:`FormatError`."""
    _check_head(head, SLAB_HEAD.size, SLAB_MAGIC, where)
    _, _, _, identity, ordinal, pid, created = SLAB_HEAD.unpack_from(head)
    return identity, ordinal, pid, created


def check_capacity(capacity: int, where: str) -> int:
    """``capacity`` of a slab; :class:`FormatError` when no slab has such a one."""
    step = FIRST_SEGMENT if capacity <= 2 * MAX_SEGMENT else MAX_SEGMENT
    is_grown = capacity > 2 * MAX_SEGMENT or capacity.bit_count() == 1
    if capacity % step or not is_grown or not FIRST_SEGMENT <= capacity <= MAX_CAPACITY:
        msg = f"{where}: has a capacity of {capacity} bytes, which no slab can have"
        raise FormatError(msg)
    return capacity


def check_retired_head(head: bytes, where: str) -> int:
    """The size that the file has by its head; :class:`FormatError` unless ``head`` starts a retired file."""
    _check_head(head, RETIRED_HEAD.size, RETIRED_MAGIC, where)
    _, _, _, slots, tail, generation, incarnation, _ = RETIRED_HEAD.unpack_from(head)
    if slots > MAX_SLOTS or tail > MAX_SERIES_FILE or max(generation, incarnation) >= MAX_COUNT:
        msg = f"{where}: has {slots} slots, a tail of {tail} bytes, generation {generation}: that cannot be"
        raise FormatError(msg)
    return RETIRED_HEAD_SIZE + 2 * WORD * int(slots) + int(tail)


def _check_head(head: bytes, size: int, magic: bytes, where: str) -> None:
    if len(head) < size + _CRC.size:
        msg = f"{where}: {len(head)} bytes are too few for a head"
        raise FormatError(msg)
    if head[:8] != magic:
        msg = f"{where}: starts with {head[:8]!r} instead of {magic!r}"
        raise FormatError(msg)
    version = int.from_bytes(head[8:12], BYTE_ORDER)
    if version != VERSION:
        msg = f"{where}: has format version {version}; this release reads version {VERSION}"
        raise FormatError(msg)
    if _CRC.unpack_from(head, size)[0] != zlib.crc32(head[:size]):
        msg = f"{where}: the checksum of its head is wrong"
        raise FormatError(msg)
