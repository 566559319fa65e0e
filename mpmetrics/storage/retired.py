"""The retired file: what dead processes counted, as one immutable file that is replaced as a whole.

Which file comes after which, its births tell: see :mod:`mpmetrics.storage.format`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import zlib
from array import array
from dataclasses import dataclass, field
from typing import Any

from mpmetrics.errors import FormatError
from mpmetrics.storage import format as fmt
from mpmetrics.storage.descriptor import Descriptor, open_private, open_regular
from mpmetrics.storage.series_file import write_all

__all__ = [
    "Retired",
    "is_same",
    "join",
    "load_retired",
    "new_birth",
    "read_retired",
    "retired_identity",
    "write_retired",
]


@dataclass
class Retired:
    """Values and remainders by slot; which slabs are contained; ``all`` gauges by slot and ordinal; its births.

    One without births is no file's.
    """

    values: array[float] = field(default_factory=lambda: array("d"))
    remainders: array[float] = field(default_factory=lambda: array("d"))
    slabs: set[str] = field(default_factory=set)
    by_ordinal: dict[int, dict[int, float]] = field(default_factory=dict)
    generation: int = 0
    incarnation: int = 0
    folded: int = 0
    births: dict[str, int] = field(default_factory=dict)

    def covers(self, births: dict[str, int]) -> bool:
        """Whether all that is in a file of these ``births`` is in this one, too."""
        return all(self.births.get(birth, 0) >= count for birth, count in births.items())

    def succeed(self) -> dict[str, int]:
        """The births of the file that is folded from this one."""
        if not self.births:
            return new_birth()
        last = next(reversed(self.births))
        return {**self.births, last: self.births[last] + 1}

    def encode(self) -> bytes:
        """The bytes of the file."""
        tail = json.dumps(
            {
                "slabs": sorted(self.slabs),
                "all": [
                    [slot, ordinal, value.hex()]
                    for slot, values in self.by_ordinal.items()
                    for ordinal, value in values.items()
                ],
                "folded": self.folded,
                "births": self.births,
            },
            separators=(",", ":"),
        ).encode("ascii")
        body = self.values.tobytes() + self.remainders.tobytes() + tail
        head = fmt.RETIRED_HEAD.pack(
            fmt.RETIRED_MAGIC,
            fmt.VERSION,
            fmt.RETIRED_HEAD_SIZE,
            len(self.values),
            len(tail),
            self.generation,
            self.incarnation,
            zlib.crc32(body),
        )
        return (head + zlib.crc32(head).to_bytes(4, fmt.BYTE_ORDER)).ljust(fmt.RETIRED_HEAD_SIZE, b"\0") + body

    @classmethod
    def decode(cls, data: bytes, where: str) -> Retired:
        """The retired file that ``data`` is; FormatError that names ``where`` when it is none."""
        size = fmt.check_retired_head(data, where)
        _, _, _, slots, _, generation, incarnation, checksum = fmt.RETIRED_HEAD.unpack_from(data)
        body = data[fmt.RETIRED_HEAD_SIZE :]
        if len(data) != size or zlib.crc32(body) != checksum:
            msg = f"{where}: its length or checksum is wrong"
            raise FormatError(msg)
        retired = cls(generation=generation, incarnation=incarnation)
        size = slots * fmt.WORD
        retired.values.frombytes(body[:size])
        retired.remainders.frombytes(body[size : 2 * size])
        try:
            retired._take_tail(json.loads(body[2 * size :]))
        except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
            msg = f"{where}: its tail makes no sense: {error}"
            raise FormatError(msg) from error
        return retired

    def _take_tail(self, tail: dict[str, Any]) -> None:
        self.slabs = set(filter(_is_identity, tail["slabs"]))
        self.folded = tail["folded"]
        self.births = {**tail["births"]}
        numbers = [self.folded, *(number for slot, ordinal, _ in tail["all"] for number in (slot, ordinal))]
        numbers += self.births.values()
        if len(self.slabs) != len(tail["slabs"]) or not all(type(n) is int and 0 <= n < fmt.MAX_COUNT for n in numbers):
            msg = "names that no slab has, or numbers that cannot be"
            raise ValueError(msg)
        if not self.births or not all(map(_is_birth, self.births)):
            msg = "births that cannot be"
            raise ValueError(msg)
        for slot, ordinal, value in tail["all"]:
            self.by_ordinal.setdefault(slot, {})[ordinal] = float.fromhex(value)


def join(births: dict[str, int], others: dict[str, int]) -> dict[str, int]:
    """The births of all that is in a file of these births and in one of ``others``."""
    return {**births, **{birth: max(count, births.get(birth, 0)) for birth, count in others.items()}}


_is_identity = re.compile(r"[0-9a-f]{32}\Z").match
_is_birth = re.compile(r"[0-9a-f]{16}\Z").match


def new_birth() -> dict[str, int]:
    """The birth of a file that is not folded from the one in its place: none, or one that is to be added to it."""
    return {secrets.token_hex(8): 1}


def retired_identity(path: str) -> tuple[int, int]:
    """Which file is the retired one of the epoch at ``path`` now: its device and number, or zeros for none."""
    try:
        status = os.stat(os.path.join(path, "retired"), follow_symlinks=False)
    except OSError:
        return 0, 0
    return status.st_dev, status.st_ino


def is_same(file: Descriptor, identity: tuple[int, int]) -> bool:
    """Whether ``file`` is open, and the one of this identity: as long as it is open, no other one has its number."""
    if file.fileno() < 0:
        return False
    status = os.fstat(file.fileno())
    return (status.st_dev, status.st_ino) == identity


def read_retired(path: str) -> tuple[Retired, Descriptor]:
    """The retired file of the epoch at ``path``, and its descriptor, which is closed before the first fold.

    Raises :class:`~mpmetrics.errors.FormatError` or OSError when it is there and cannot be used.
    """
    name = os.path.join(path, "retired")
    try:
        descriptor = open_regular(name)
    except FileNotFoundError:
        return Retired(), Descriptor(-1)
    with os.fdopen(descriptor.fileno(), "rb", closefd=False) as file:
        head = file.read(fmt.RETIRED_HEAD_SIZE)
        # No more is read than there should be, however long the file is.
        size = fmt.check_retired_head(head, name)
        if os.fstat(file.fileno()).st_size != size:
            msg = f"{name}: is not as long as the {size} bytes it should have"
            raise FormatError(msg)
        return Retired.decode(head + file.read(), name), descriptor


def load_retired(path: str) -> Retired:
    """Like :func:`read_retired`, for those who read it once."""
    return read_retired(path)[0]


def write_retired(path: str, retired: Retired, owner: tuple[int, int] | None) -> None:
    """Put ``retired`` in the place of the epoch's retired file: in full, or not at all. OSError when it cannot."""
    temporary = os.path.join(path, f"new-retired-{secrets.token_hex(16)}")
    try:
        descriptor = Descriptor(open_private(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, owner))
        write_all(descriptor.fileno(), retired.encode(), 0)
        descriptor.close()
        # The commit: readers open the old file or the new one.
        os.rename(temporary, os.path.join(path, "retired"))
    except BaseException:
        with contextlib.suppress(OSError):  # never made, or in its place already
            os.unlink(temporary)
        raise
