"""Write the lines of a family in the text formats; the pure-Python twin."""

from __future__ import annotations

import math
from itertools import chain, repeat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mpmetrics._cells.index import Texts

__all__ = ["Template", "lines", "number"]

Template = tuple[bytes, bytes, bytes]
"""A line's text before the labels, its text behind them, and its whole start if it has no labels."""


def number(value: float) -> str:
    """A value as the text formats write it: the shortest decimal that reads back to the same double."""
    if math.isfinite(value):
        return repr(value)
    return "NaN" if value != value else ("+Inf" if value > 0 else "-Inf")  # noqa: PLR0124 (only NaN does)


def lines(
    templates: tuple[Template | None, ...],
    texts: Texts,
    values: Sequence[float],
    mask: bytes | None,
    created: tuple[Template, Sequence[float]] | None = None,
) -> bytes:
    """The lines of a family: for each row and template a name, labels and a value.

    ``texts`` are the labels of the rows; further texts are ignored. A value whose template is None is left out. The
    mask has a byte for each value or for each row; None: all are shown. ``created`` is a template and a time for each
    row; the time's line follows the lines of the row, if any is shown.
    """
    width = len(templates)
    rows = len(values) // width if width else 0
    if rows * width != len(values) or rows > len(texts) or (created is not None and len(created[1]) != rows):
        msg = f"{len(values)} values do not fit {len(texts)} texts"
        raise ValueError(msg)
    if mask is not None and len(mask) not in (rows, rows * width):
        msg = f"the mask must have a byte for each of {rows} rows, or for each value"
        raise ValueError(msg)
    numbers = _numbers(values)
    times = [] if created is None else _numbers(created[1])
    if any(templates) and b"" not in texts and (mask is None or 0 not in mask):
        columns: list[Iterable[bytes]] = []
        for at, template in enumerate(templates):
            if template is not None:
                columns += [repeat(template[0]), texts, repeat(template[1]), numbers[at::width], repeat(b"\n")]
        if created is not None:
            columns += [repeat(created[0][0]), texts, repeat(created[0][1]), times, repeat(b"\n")]
        return b"".join(chain.from_iterable(zip(*columns, strict=False)))  # not strict: repeat() has no end
    shown = mask or bytes([1]) * rows
    parts: list[bytes] = []
    for row in range(rows):
        bits = shown[row * width : (row + 1) * width] if len(shown) > rows else shown[row : row + 1] * width
        wanted = [at for at, template in enumerate(templates) if template is not None and bits[at]]
        for at in wanted:
            parts += _line(templates[at], texts[row], numbers[row * width + at])
        if created is not None and wanted:
            parts += _line(created[0], texts[row], times[row])
    return b"".join(parts)


def _line(template: Template | None, labels: bytes, value: bytes) -> tuple[bytes, ...]:
    opening, closing, bare = template or (b"", b"", b"")
    return (opening, labels, closing, value, b"\n") if labels else (bare, value, b"\n")


def _numbers(values: Sequence[float]) -> list[bytes]:
    write = repr if all(map(math.isfinite, values)) else number
    return "\n".join(map(write, values)).encode().split(b"\n")
