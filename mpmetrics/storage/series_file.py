"""Making a series directory's file: a new epoch's, or a compacted one."""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import TYPE_CHECKING

from mpmetrics.storage import format as fmt
from mpmetrics.storage import records
from mpmetrics.storage.descriptor import open_private

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpmetrics.storage.catalog import Catalog

__all__ = ["create_series_file", "fresh_series_path", "write_all"]


def create_series_file(
    path: str,
    catalog: Catalog,
    head: tuple[int, int],
    owner: tuple[int, int] | None,
    before: Sequence[int] | memoryview = (0,) * fmt.TROUBLE,
    trouble: bytes = b"",
) -> int:
    """Write a complete series directory to the new file ``path`` and return its descriptor.

    ``head`` is its incarnation and generation, ``trouble`` its trouble words. What was given out by the head's words
    ``before`` stays so, even where the record that did it is damaged and does not come along. OSError when it cannot be
    written; the file is removed again.
    """
    incarnation, generation = head
    body = b"".join(records.encode_record(kind, fields) for kind, fields in catalog.snapshot_records())
    descriptor = -1
    try:
        descriptor = open_private(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, owner)
        committed = fmt.SERIES_HEAD_SIZE + len(body)
        os.posix_fallocate(descriptor, 0, committed)
        words = [committed, generation, 0]
        given_out = before[fmt.NEXT_SLOT], before[fmt.NEXT_FAMILY], before[fmt.NEXT_SERIAL]
        words += map(max, given_out, (catalog.next_slot, catalog.next_family, catalog.next_serial))
        head_bytes = fmt.pack_series_head(incarnation).ljust(fmt.COMMITTED * fmt.WORD, b"\0")
        head_bytes += b"".join(word.to_bytes(fmt.WORD, fmt.BYTE_ORDER) for word in words)
        write_all(descriptor, head_bytes, 0)
        write_all(descriptor, trouble, fmt.TROUBLE * fmt.WORD)
        write_all(descriptor, body, fmt.SERIES_HEAD_SIZE)
    except BaseException:
        if descriptor >= 0:
            os.close(descriptor)
        with contextlib.suppress(OSError):  # never made
            os.unlink(path)
        raise
    return descriptor


def fresh_series_path(path: str) -> str:
    """Where a compacted file is to be written in the epoch at ``path``; what an earlier one left there is removed.

    For whoever holds the append lock, and so is alone.
    """
    for name in os.listdir(path):
        if name.startswith("new-series-"):
            with contextlib.suppress(OSError):  # whatever it is, the new one has another name
                os.unlink(os.path.join(path, name))
    return os.path.join(path, f"new-series-{secrets.token_hex(16)}")


def write_all(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of ``data`` at ``offset``."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
