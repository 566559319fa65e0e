"""The bytes of a store: the specification, and the code that packs and checks them. A test holds one against the other.

A store is a directory::

    lock                   begin lock: held while an epoch begins, and while dead epochs are removed
    epoch-N/               one server's life; N, the Unix time of its start in ms, is the highest for the current one;
                           locked by the process that takes a dead slab's name away
        lease              each process of the epoch holds a shared flock on it; nobody does: the epoch is dead
        server             each master of the epoch holds a shared flock on it; nobody does: there is no server
        shared             one page that all processes map: the generation of removals, and the trouble words
        removals           which series were removed
        removals.lock      held by the process that removes
        fold.lock          held by the process that folds
        retired            what dead processes counted
        idle-ID            the slab of a process that has declared, but not counted; ID is its identity (32 hex digits)
        slab-O             the slab of the process with ordinal O
        dead-O-INODE       the slab of a dead process whose ordinal another process has taken
        ask-O-ID           the socket at which the owner of slab-O is asked to run its callbacks
        metrics.sock       the socket at which the collector serves the metrics
        collector.lock     held by the collector that serves them
        new-WHAT-ID        a file, directory or socket that is being made; no reader opens it

Directories have mode 0700, files 0600; all belong to the owner of the store's directory, but for the slab of a root
master beside workers of another user, which is root's own and has mode 0644. All numbers are in the machine's byte
order (a store never leaves its host); a file of the other order fails its magic.

Every word that two processes touch at a time is 8 bytes long, 8-byte aligned, and is loaded and stored whole.

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

The file is sparse: words and areas have blocks as far as the head says. They grow by 4 KiB, then by as much as they
have, at most by 32 KiB. Blocks are allocated before the head's word is stored, so that no store can meet a full disk.
Nothing that is in use moves, and no file that has a name is ever cut.

The owner holds an exclusive flock on the file for life: an unlocked slab is a dead process's. It locks the file and
writes the head while the file is still called ``new-slab-ID``; linking it to its name is the commit. Only the owner
writes to it. Ordinals from 900,000,000 belong to processes beside the workers, such as the collector. A slab may have
two names for a moment: its identity shows that both are the same slab.

A record is a head of 16 bytes and a body, padded with zeros to a multiple of 8:

===========  ======  =====================================================================================
offset       type    field
===========  ======  =====================================================================================
0            u32     magic 0x4D50524B
4            u32     length of the body in bytes, without padding
8            u32     CRC-32 of kind and body
12           u32     kind: 1 FAMILY, 2 SERIES, 3 END, 4 FOLDED, 5 REMOVE
===========  ======  =====================================================================================

*Texts* are a u16 that says how many there are, a u16 for the length of each in bytes, and the texts in UTF-8, one
after the other. A number of texts of 65535 stands for the overflow series, and no lengths follow. The bodies:

* FAMILY: u32 number, u32 zero, u64 time of the declaration in ns, and the fields of a metric as
  :meth:`mpmetrics.names.family.Family.pack` writes them. Numbers are those of this slab.
* SERIES: u32 number of the family, u32 words, u64 first word, f64 creation (Unix time in seconds, a multiple of 1 ms),
  u64 generation of removals when it was made, and as texts its label values, in the order of the family's labels. A
  metric whose labels are open goes on with the name and the value of each further label.
* END: u64 first word. The series that began there is gone.
* FOLDED: 16s identity of a slab that this retired file contains.
* REMOVE: u64 generation, u32 flags, and as texts a metric's name and the names and values of labels, sorted by name. It
  ends the series of this metric with these labels, or if flag 1 is set, each whose labels include these. A label
  without a value is none.

Writer, alone and without a lock: zeroes the words, writes the record behind ``committed``, stores ``committed``. That
store is the commit: readers never look past it, and a writer that is killed before it leaves bytes that the next record
overwrites. A series that is removed gets an END; only after its commit are its words zeroed and used for another
series of the owner. When more than half of the records, and more than 64 KiB, are of no use any more, the owner copies
the others to the other area, stores what is committed there, and then ``flips``, which is the commit.

Reader: parses records up to ``committed``, copies the words, and parses what was committed meanwhile. Words of a series
that came or ended in between are left out, since they may have been another series' when they were copied. It takes no
lock. If ``flips`` has changed, it begins with this slab again. A record that fails its checks, or whose text UTF-8
cannot carry, costs itself alone: the reader goes on at the next 8-byte boundary at which a valid record starts, and
counts the gap. Records of unknown kinds are skipped.

What the words of a series hold, by the kind of its family:

* counter, up-down counter with mode ``sum``: one word, the sum of what was added.
* gauge, up-down counter with mode ``livesum``: one word. All bits zero: never set. A value of zero is stored as -0.0.
* gauge ``mostrecent``, ``livemostrecent``, enum, info: four words ``value, time, value, time``. The pair with the later
  time counts; a writer overwrites the other one, value first: its time is the commit. Times are u64: nanoseconds of
  CLOCK_MONOTONIC less the offset of the time namespace, and at least the writer's last time + 1. Of equal times of two
  slabs, that of the greater identity counts.
* histogram, summary: ``sum, sum, bucket, ...``. Buckets are not cumulative. With n the sum of the buckets, the sum of
  the observations is the first word where n is even and the second where it is odd: a writer stores the new sum into
  the word that does not count yet, then the bucket, which is the commit. A summary has one bucket.
* sketch: two records of six words ``sum, rest, sum of squares, rest, minimum, maximum``, then buckets on a log scale
  (:mod:`mpmetrics._cells.sketch`). The first record counts where the sum of the buckets is even and the second where it
  is odd: a writer fills the record that does not count yet, then adds to the bucket, which is the commit. A sum is its
  word and its rest together. Minimum and maximum of all bits zero: no value yet. A value of zero is stored as -0.0.

A writer killed between any two stores leaves the series as before its last operation. A reader of several words reads
them twice and takes them when nothing changed in between, else tries again, a bounded number of times.

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

A removal has the generation after the last one's. Holding the removals lock, the remover writes its REMOVE record
behind the last one of ``removals`` and then stores the generation: that is the commit. Records of later generations do
not exist; the next remover overwrites them. A removal ends the series of a lower generation, in all slabs and in the
retired file, once it is committed. Readers look at the removals after they have read the slabs, and drop such series.
An owner compares the generation with the one it has seen whenever it looks a series up, and ends them.

A series' first use loads the generation, commits the record with it, and loads it again: if it has moved, the series is
ended and made anew. So a series that came before a removal is removed by it, and one that came after it is not.

The process that folds shortens ``removals``, holding both locks: it writes the records that still end a series of some
slab, and those that came after it looked, to another file, adds 1 to ``shortened``, and renames the file into place.
Whoever goes on reading where it stopped compares ``shortened`` and the file's number before and after: on a disk, a new
file may have the number of one that is gone.

The trouble words count what processes could not put into the store. Each process picks a word by its process id and
adds to it without a lock: the sum is a diagnosis, not an account.

Retired file
------------

A slab of magic ``MPMRETIR`` that is written as a whole under another name, renamed into place, which is the commit, and
never changed. FOLDED records name the slabs that it contains and whose files were still there: a slab of that identity
is not counted again. Before the folder removes such a file it stores 1 into its word ``retired``, so that a reader that
still maps it can tell that from a file that somebody else removed. It keeps the identity of the file that it replaces,
so a reader can tell whether it contains what an earlier one did. When somebody has removed it, the collector writes it
again from its map. Its series have these words:

* counter, up-down counter with mode ``sum``, gauge ``sum``: ``value, rest``; the rest is the exact sum less the value.
* gauge ``min``, ``max``: one word. Gauge ``all``: ``ordinal, value`` for each ordinal, the ordinal as u64.
* gauge ``mostrecent``, enum, info: ``value, time, identity``, the identity of the slab in two words.
* histogram, summary: ``sum, rest, bucket, ...``. Sketch: the record that counts, then the buckets.
* up-down counter and gauge ``livesum``: one word, zero. Other gauges of the live modes are not kept.

A series has the earliest creation and the greatest generation of those that it was made of.
"""

from __future__ import annotations

import struct
import sys
import zlib
from typing import Final

from mpmetrics._cells.encoding import *  # noqa: F403 - cells write and read records, too
from mpmetrics._cells.offsets import *  # noqa: F403 - the numbers of the tables above that cells need
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
BESIDE: Final = 900_000_000
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
    """Return identity, process id, creation time and ``folded``, or raise :class:`FormatError` that names ``where``."""
    _check_head(head, SLAB_HEAD.size, magic, where)
    _, _, _, identity, pid, created, folded = SLAB_HEAD.unpack_from(head)
    return identity, pid, created, folded


def pack_shared() -> bytes:
    """Bytes 0 to 19 of a shared page."""
    static = SHARED_HEAD.pack(SHARED_MAGIC, VERSION, PAGE)
    return static + _CRC.pack(zlib.crc32(static))


def check_shared(head: bytes, where: str) -> None:
    """Raise :class:`FormatError` that names ``where`` unless ``head`` starts a shared page."""
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
