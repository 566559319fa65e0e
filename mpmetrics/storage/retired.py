"""The retired file: what dead processes counted, as one immutable file that is replaced as a whole."""

from __future__ import annotations

import json
import os
import secrets
import zlib
from array import array
from dataclasses import dataclass, field

from mpmetrics.errors import FormatError
from mpmetrics.storage import format as fmt
from mpmetrics.storage.descriptor import Descriptor
from mpmetrics.storage.locks import open_private

__all__ = ["Retired", "load_retired", "read_retired", "write_retired"]


@dataclass
class Retired:
    """Values and remainders by slot; which slabs are contained; ``all`` gauges by slot and ordinal."""

    values: array[float] = field(default_factory=lambda: array("d"))
    remainders: array[float] = field(default_factory=lambda: array("d"))
    slabs: set[str] = field(default_factory=set)
    by_ordinal: dict[int, dict[int, float]] = field(default_factory=dict)
    generation: int = 0
    incarnation: int = 0
    folded: int = 0

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
        fmt.check_retired_head(data, where)
        _, _, _, slots, tail_size, generation, incarnation, checksum = fmt.RETIRED_HEAD.unpack_from(data)
        body = data[fmt.RETIRED_HEAD_SIZE :]
        size = slots * fmt.WORD
        if len(body) != 2 * size + tail_size or zlib.crc32(body) != checksum:
            msg = f"{where}: its length or checksum is wrong"
            raise FormatError(msg)
        retired = cls(generation=generation, incarnation=incarnation)
        retired.values.frombytes(body[:size])
        retired.remainders.frombytes(body[size : 2 * size])
        try:
            tail = json.loads(body[2 * size :])
            retired.slabs = set(tail["slabs"])
            for slot, ordinal, value in tail["all"]:
                retired.by_ordinal.setdefault(int(slot), {})[int(ordinal)] = float.fromhex(value)
            retired.folded = int(tail["folded"])
        except (ValueError, TypeError, KeyError) as error:
            msg = f"{where}: its tail makes no sense: {error}"
            raise FormatError(msg) from error
        return retired


def read_retired(path: str) -> tuple[Retired, Descriptor]:
    """The retired file of the epoch at ``path``, and its descriptor, which is closed before the first fold.

    Raises :class:`~mpmetrics.errors.FormatError` or OSError when it is there and cannot be used.
    """
    name = os.path.join(path, "retired")
    try:
        descriptor = Descriptor(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK))
    except FileNotFoundError:
        return Retired(), Descriptor(-1)
    with os.fdopen(descriptor.fileno(), "rb", closefd=False) as file:
        return Retired.decode(file.read() or b"", name), descriptor


def load_retired(path: str) -> Retired:
    """Like :func:`read_retired`, for those who read it once."""
    return read_retired(path)[0]


def write_retired(path: str, retired: Retired, owner: tuple[int, int] | None) -> None:
    """Put ``retired`` in the place of the epoch's retired file: in full, or not at all. OSError when it cannot."""
    temporary = os.path.join(path, f"new-retired-{secrets.token_hex(16)}")
    descriptor = open_private(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, owner)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(retired.encode())
        # The commit: readers open the old file or the new one.
        os.rename(temporary, os.path.join(path, "retired"))
    except BaseException:
        os.unlink(temporary)
        raise
