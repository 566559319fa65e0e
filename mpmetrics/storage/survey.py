"""Which slabs an epoch has, and whose owners live. Takes no lock that anyone waits for."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from mpmetrics.storage.locks import probe

__all__ = ["SlabName", "is_alive", "list_slabs", "live_ordinals", "slab_name"]

_NAME = re.compile(r"slab-(\d{1,9})-([0-9a-f]{32})\Z")


class SlabName(NamedTuple):
    """A slab's file name taken apart."""

    file: str
    ordinal: int
    identity: str


def slab_name(ordinal: int, identity: str) -> str:
    """File name of a slab."""
    return f"slab-{ordinal}-{identity}"


def list_slabs(path: str) -> list[SlabName]:
    """The slabs in the epoch at ``path``, by ordinal; OSError when the directory cannot be read."""
    found = (_NAME.match(name) for name in os.listdir(path))
    return sorted((SlabName(m[0], int(m[1]), m[2]) for m in found if m), key=lambda slab: (slab.ordinal, slab.identity))


def is_alive(path: str) -> bool:
    """Whether the owner of the slab file ``path`` holds its lease; a file that is gone has no live owner.

    Where it cannot be told, for want of descriptors say, the owner lives: nothing of it is touched.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        return probe(descriptor)
    finally:
        os.close(descriptor)


def live_ordinals(path: str) -> set[int]:
    """Ordinals of the live slabs in the epoch at ``path``."""
    return {slab.ordinal for slab in list_slabs(path) if is_alive(os.path.join(path, slab.file))}
