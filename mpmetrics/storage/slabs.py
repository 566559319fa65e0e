"""The names of slabs, and whose owners live. Takes no lock that anyone waits for."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from mpmetrics.errors import FormatError
from mpmetrics.storage import format as fmt
from mpmetrics.storage.descriptor import open_regular
from mpmetrics.storage.locks import is_held

__all__ = ["SlabName", "identity_of", "is_alive", "list_slabs", "slab_name"]

_NAME = re.compile(r"idle-([0-9a-f]{32})\Z|slab-(\d{1,9})\Z|dead-(\d{1,9})-([0-9a-f]{32})\Z")


class SlabName(NamedTuple):
    """A slab's file name taken apart; what the name does not say is None or empty."""

    file: str
    ordinal: int | None
    identity: str


def slab_name(ordinal: int) -> str:
    """File name of the slab of the process with this ordinal."""
    return f"slab-{ordinal}"


def parse_name(file: str) -> SlabName | None:
    """The slab of this file name; None when no slab has it."""
    match = _NAME.match(file)
    if match is None:
        return None
    ordinal = match[2] or match[3]
    return SlabName(file, None if ordinal is None else int(ordinal), match[1] or match[4] or "")


def list_slabs(path: str | int) -> list[SlabName]:
    """The slabs in the epoch at ``path``, or open as that descriptor; OSError when it cannot be read."""
    found = [name for name in map(parse_name, os.listdir(path)) if name is not None]
    return sorted(found, key=lambda slab: (fmt.BESIDE if slab.ordinal is None else slab.ordinal, slab.file))


def is_alive(path: str, *, dir_fd: int | None = None) -> bool:
    """Whether the owner of the slab file ``path`` holds its lease; a file that is gone has no live owner.

    Where it cannot be told, for want of descriptors say, the owner lives: nothing of it is touched.
    """
    try:
        with open_regular(path, dir_fd=dir_fd) as descriptor:
            return is_held(descriptor)
    except (FileNotFoundError, FormatError):
        return False
    except OSError:
        return True


def identity_of(path: str) -> str:
    """Identity of the slab at ``path``, as 32 hex digits; FormatError or OSError when it is none."""
    with open_regular(path) as descriptor:
        identity, _, _, _ = fmt.check_slab(os.pread(descriptor, fmt.PAGE, 0), path)
    return identity.hex()
