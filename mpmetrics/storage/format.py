"""The bytes of a store: the specification, and the code that packs and checks them. A test compares the two.

A store is a directory::

    lock                   begin lock: held while a process begins an epoch, or removes dead ones
    epoch-N/               one server's life; N is the Unix time of its start in ms; the highest N is the current epoch;
                           a process that renames a dead process's slab locks this directory
        lease              each process of the epoch holds a shared flock on it; while none does, the epoch is dead
        server             each master of the epoch holds a shared flock on it; while none does, it has no server
        shared             one page that all processes map: the generation of removals, and the trouble words
        removals           which series were removed
        removals.lock      held by the process that removes series
        fold.lock          held by the process that folds
        retired            what dead processes counted
        idle-ID            the slab of a process that has declared metrics, but not counted; ID is its identity in hex
        slab-O             the slab of the process with ordinal O
        dead-O-INODE       the slab of a dead process whose ordinal another process has taken
        ask-O-ID           the socket at which the owner of slab-O takes requests to run its callbacks
        metrics.sock       the socket at which the collector serves the metrics
        collector.lock     held by that collector
        new-WHAT-ID        a file, directory or socket that is still being made; readers do not open it

Directories have mode 0700, files 0600. All belong to the owner of the store's directory, with one exception: the slab
of a root master beside workers of another user belongs to root and has mode 0644. Numbers are in the byte order of the
machine, since a store never leaves its host; a file of the other order has a wrong magic.

Every word that two processes use at the same time is 8 bytes long and 8-byte aligned, and is loaded and stored whole.

Slab
----

===========  ======  =====================================================================================
offset       type    field
===========  ======  =====================================================================================
0            8s      magic ``MPMSLAB_``
8            u32     format version, 2
12           u32     size of the head, 4096
16           16s     identity, random bytes, which no other slab has
32           u64     process id, a label only
40           f64     creation, Unix time in seconds
48           u64     folded: of a retired file, how many slabs were ever folded into it; else 0
56           u32     CRC-32 of bytes 0 to 55
60           u32     zero
64           u64     words end: where the allocated words end, in bytes from the start of the file
72           u64     flips: how often the records moved to the other area; the area in use is its last bit
80           u64     committed in area 0: where its last valid record ends, in bytes from the start of the area
88           u64     committed in area 1
96           u64     room in area 0: bytes that are allocated, from the start of the area
104          u64     room in area 1
112          u64     retired: 1 once the retired file contains this slab
4096         f64[]   words; the number of a word is its offset divided by 8, so the first has number 512
67108864     ...     area 0: records, at most 2^27 bytes
201326592    ...     area 1: records, at most 2^27 bytes
===========  ======  =====================================================================================

The file is sparse. Words and areas have blocks up to the ends that the head names. They grow by 4 KiB, then by as much
as they have, but by 32 KiB at most. The owner allocates blocks before it stores the new end in the head, so no later
store can meet a full disk. Nothing that is in use moves, and no file that has a name is ever truncated.

The owner holds an exclusive flock on the file for life: an unlocked slab belongs to a dead process. It locks the file
and writes the head while the file is called ``new-slab-ID``; linking it to its name is the commit. Only the owner
writes to it. Workers have ordinals from 0 on; auxiliary processes, such as the collector, have ordinals from
900,000,000 on. A slab may have two names for a moment; both have the same identity.

A record is a head of 16 bytes and a body, padded with zeros to a multiple of 8:

===========  ======  =====================================================================================
offset       type    field
===========  ======  =====================================================================================
0            u32     magic 0x4D50524B
4            u32     length of the body in bytes, without padding
8            u32     CRC-32 of kind and body
12           u32     kind: 1 FAMILY, 2 SERIES, 3 END, 4 FOLDED, 5 REMOVE
===========  ======  =====================================================================================

*Texts* are a u16 count, a u16 length in bytes for each text, and the texts in UTF-8, one after the other. A count of
65535 stands for the overflow series; no lengths follow it. The bodies are:

* FAMILY: u32 number, u32 zero, u64 time of the declaration in ns, and the fields of a metric as
  :meth:`mpmetrics.names.family.Family.pack` writes them. The number identifies the family within this slab.
* SERIES: u32 number of the family, u32 count of words, u64 first word, f64 creation (Unix time in seconds, a multiple
  of 1 ms), u64 generation of removals at its creation, and as texts the label values, in the order of the family's
  labels. If the family is open to more labels, name and value of each further label follow.
* END: u64 first word. The series that began there has ended.
* FOLDED: 16s identity of a slab that this retired file contains.
* REMOVE: u64 generation, u32 flags, and as texts a metric's name and the names and values of labels, sorted by name. It
  ends the metric's series with exactly these labels; with flag 1, all series whose labels include these. A label with
  an empty value equals a missing label.

**Writer.** The owner writes alone and without a lock. It zeroes the words, writes the record behind ``committed``, and
stores the new ``committed``. That store is the commit: readers never read beyond it, and the next record overwrites
what a killed writer left there. To end a series, the owner writes an END; only after its commit does it zero the words
and give them to another series. When more than half of the records, and more than 64 KiB, are garbage, it copies the
others to the other area, stores that area's ``committed``, and then stores ``flips``, which is the commit.

**Reader.** A reader takes no lock. It parses the records up to ``committed``, copies the words, and then parses the
records that were committed meanwhile. It ignores the words of each series that began or ended in between: when it
copied them, they may have belonged to another series. If ``flips`` has changed, it starts over with this slab. An
invalid record, or one whose texts are not UTF-8, affects no other record: the reader counts the gap and continues at
the next 8-byte boundary where a valid record starts. It skips records of unknown kinds.

The kind of the family determines what the words of a series hold:

* counter, up-down counter with mode ``sum``: one word, the sum of the increments.
* gauge, up-down counter with mode ``livesum``: one word. All bits zero: never set. A value of zero is stored as -0.0.
* gauge ``mostrecent``, ``livemostrecent``, enum, info: four words ``value, time, value, time``. The pair with the later
  time counts. A writer overwrites the other pair, value first; storing its time is the commit. Times are u64:
  nanoseconds of CLOCK_MONOTONIC less the offset of the time namespace, and at least the writer's last time + 1. If two
  slabs have the same time, the value of the greater identity counts.
* histogram, summary: ``sum, sum, bucket, ...``. Buckets are not cumulative; a summary has one. Let n be the total of
  the buckets. The sum of the observations is the first word if n is even, the second if n is odd. A writer stores the
  new sum into the word that does not count yet, then increments the bucket, which is the commit.
* sketch: two records of six words ``sum, rest, sum of squares, rest, minimum, maximum``, then buckets on a log scale
  (:mod:`mpmetrics._cells.sketch`). The first record counts if the total of the buckets is even, the second if it is
  odd. A writer fills the record that does not count yet, then increments the bucket, which is the commit. A sum is its
  word plus its rest. Minimum and maximum of all bits zero: no value yet. A value of zero is stored as -0.0.

If a writer is killed between any two stores, the series is as before its last operation. A reader reads the words of
one series twice and takes them if they are equal, else it tries again, a bounded number of times.

Shared page
-----------

===========  ======  =====================================================================================
offset       type    field
===========  ======  =====================================================================================
0            8s      magic ``MPMSHARE``
8            u32     format version, 2
12           u32     size of the page, 4096
16           u32     CRC-32 of bytes 0 to 15
20           u32     zero
24           u64     generation of removals
32           u64     successor: the number of the epoch that took this one's place, else 0
40           u64     shortened: how often ``removals`` was shortened
48           u64[]   ten words, zero
128          f64[]   496 trouble words: see below
===========  ======  =====================================================================================

**Removals.** Each removal has the next generation. A process that removes series holds the removals lock. It writes a
REMOVE record behind the last one in ``removals`` and then stores its generation in the page: that is the commit. A
record with a later generation does not count, and the next writer overwrites it. A committed removal ends the series
of a lower generation in all slabs and in the retired file. Readers read the removals after the slabs, and drop such
series. Owners compare the generation with the last one they applied at each look-up, and end such series.

To make a series, its owner loads the generation, commits the record with it, and loads the generation again. If that
has changed, the owner applies the new removals, and makes the series anew if one of them ended it. So a removal ends
the series made before it and none later.

The process that folds shortens ``removals``. Holding both locks, it writes the records that still end a series of some
slab, and all that came after its check, to a new file, adds 1 to ``shortened``, and renames the file into place. A
process that continues reading where it stopped compares ``shortened`` and the inode number before and after; the inode
number alone is not enough, since file systems reuse it.

**Trouble words.** They count what processes could not put into the store. Each process picks a word by its process id
and adds to it without a lock, so their sum is approximate: a diagnosis, not an account.

Retired file
------------

The retired file has the form of a slab with the magic ``MPMRETIR``. The folding process writes it as a whole under
another name and renames it into place, which is the commit; it never changes afterwards. FOLDED records name the slabs
that it contains and whose files were still there; readers do not count these slabs again. Before the folding process
unlinks such a slab, it stores 1 into the slab's word ``retired``, so that a reader that still maps the slab knows that
it was folded, not removed by a cleaner. A new retired file keeps the identity of the one that it replaces, so that a
reader can tell whether it contains what the earlier one did. If a cleaner removes it, the collector rewrites it from
its map. Its series have these words:

* counter, up-down counter with mode ``sum``, gauge ``sum``: ``value, rest``; the rest is the exact sum less the value.
* gauge ``min``, ``max``: one word. Gauge ``all``: ``ordinal, value`` for each ordinal, the ordinal as u64.
* gauge ``mostrecent``, enum, info: ``value, time, identity``; the slab's identity takes two words.
* histogram, summary: ``sum, rest, bucket, ...``. Sketch: the record that counts, then the buckets.
* up-down counter and gauge ``livesum``: one word, zero. Gauges with other live modes are not kept.

A series has the earliest creation and the greatest generation of those that were merged into it.
"""

from __future__ import annotations

import struct
import sys
import zlib
from typing import Final

from mpmetrics._cells.encoding import *  # noqa: F403 - records and texts, which cells use, too
from mpmetrics._cells.offsets import *  # noqa: F403 - the numbers of the tables above that cells use
from mpmetrics._cells.offsets import PAGE, WORD
from mpmetrics.errors import FormatError

VERSION: Final = 2
BYTE_ORDER: Final = sys.byteorder

SLAB_MAGIC: Final = b"MPMSLAB_"
RETIRED_MAGIC: Final = b"MPMRETIR"
SLAB_HEAD: Final = struct.Struct("=8sII16sQdQ")
RETIRED: Final = 112 // WORD
FIRST_WORDS_END: Final = 2 * PAGE
"""Where the words of a new slab end."""
AUXILIARY: Final = 900_000_000
REMOVE: Final = 5
SUBSET: Final = 1

SHARED_MAGIC: Final = b"MPMSHARE"
SHARED_HEAD: Final = struct.Struct("=8sII")
GENERATION: Final = 24 // WORD
SUCCESSOR: Final = 32 // WORD
SHORTENED: Final = 40 // WORD
TROUBLE: Final = 128 // WORD
TROUBLE_WORDS: Final = (PAGE - 128) // WORD

_CRC: Final = struct.Struct("=I")


def pack_slab(identity: bytes, pid: int, created: float, magic: bytes = SLAB_MAGIC, folded: int = 0) -> bytes:
    """Bytes 0 to 59 of a slab or retired file."""
    static = SLAB_HEAD.pack(magic, VERSION, PAGE, identity, pid, created, folded)
    return static + _CRC.pack(zlib.crc32(static))


def check_slab(head: bytes, where: str, magic: bytes = SLAB_MAGIC) -> tuple[bytes, int, float, int]:
    """Return identity, process id, creation time and ``folded``; raise :class:`FormatError` that names ``where``."""
    _check_head(head, SLAB_HEAD.size, magic, where)
    _, _, _, identity, pid, created, folded = SLAB_HEAD.unpack_from(head)
    return identity, pid, created, folded


def pack_shared() -> bytes:
    """Bytes 0 to 19 of a shared page."""
    static = SHARED_HEAD.pack(SHARED_MAGIC, VERSION, PAGE)
    return static + _CRC.pack(zlib.crc32(static))


def check_shared(head: bytes, where: str) -> None:
    """Raise :class:`FormatError`, naming ``where``, unless ``head`` is the head of a shared page."""
    _check_head(head, SHARED_HEAD.size, SHARED_MAGIC, where)


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
