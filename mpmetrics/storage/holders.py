"""Who may still hold removed series: what decides whether their slots can be given to others."""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

from mpmetrics.errors import FormatError
from mpmetrics.storage.fold import fold
from mpmetrics.storage.reader import SlabReader
from mpmetrics.storage.survey import list_slabs

__all__ = ["Holder", "holders"]


class Holder(NamedTuple):
    """The owner of a slab: the generation up to which it has let go, and the greatest serial that it ever held."""

    acknowledged: int
    bound: int


def holders(path: str, owner: tuple[int, int] | None) -> list[Holder]:
    """The owners of all slabs of the epoch at ``path``, the dead ones too, as far as they cannot be folded.

    A slab that comes later holds nothing that is removed by now: it is linked under the append lock, after its owner
    has taken in all removals. OSError when the directory cannot be read.
    """
    with contextlib.suppress(FormatError, OSError):  # what cannot be folded counts as held
        fold(path, owner=owner)
    found = []
    for name in list_slabs(path):
        try:
            slab = SlabReader(os.path.join(path, name.file))
        except (FileNotFoundError, FormatError):
            continue  # folded, or unreadable: no collector counts it either
        found.append(Holder(slab.acknowledged, slab.bound))
        slab.close()
    return found
