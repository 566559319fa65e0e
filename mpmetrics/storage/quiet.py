"""When the slots of removed series may be given to others: once nobody writes to them or holds old values of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mpmetrics.errors import FormatError
from mpmetrics.storage.fold import fold
from mpmetrics.storage.reader import SeriesReader, SlabReader
from mpmetrics.storage.retired import load_retired
from mpmetrics.storage.survey import list_slabs

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["quiet_generation"]


def quiet_generation(path: str, owner: tuple[int, int] | None) -> int:
    """The generation up to which every slab has let go of removed series and the retired file has dropped them.

    Call it under the append lock of the epoch at ``path``, so that no slab is linked meanwhile. Dead slabs are folded,
    since they cannot let go of anything any more. 0 when it cannot be told.
    """
    try:
        fold(path, owner=owner, at_least=0)
        series = SeriesReader(path)
        latest = series.generation
        series.close()
        return min([latest, load_retired(path).generation, *_acknowledged(path)])
    except (OSError, FormatError):
        return 0


def _acknowledged(path: str) -> Iterator[int]:
    for name in list_slabs(path):
        try:
            slab = SlabReader(os.path.join(path, name.file))
        except (OSError, FormatError):
            continue  # gone, or unreadable: no collector counts it either
        yield slab.acknowledged
        slab.close()
