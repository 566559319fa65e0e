"""Where slots lie in a slab: its segments, which double in size up to a limit. No input or output happens here."""

from __future__ import annotations

from mpmetrics.storage import format as fmt

__all__ = ["first_slot", "fit", "segment_of", "segment_span", "slots_of"]

_DOUBLINGS = (fmt.MAX_SEGMENT // fmt.FIRST_SEGMENT).bit_length()


def segment_span(number: int) -> tuple[int, int]:
    """First byte and end of segment ``number`` of a slab."""
    if number == 0:
        return 0, fmt.FIRST_SEGMENT
    if number <= _DOUBLINGS:
        return fmt.FIRST_SEGMENT << (number - 1), fmt.FIRST_SEGMENT << number
    start = (fmt.FIRST_SEGMENT << _DOUBLINGS) + (number - _DOUBLINGS - 1) * fmt.MAX_SEGMENT
    return start, start + fmt.MAX_SEGMENT


def segment_of(slot: int) -> int:
    """Number of the segment that holds ``slot``."""
    offset = fmt.SLAB_HEAD_SIZE + slot * fmt.WORD
    top = fmt.FIRST_SEGMENT << _DOUBLINGS
    if offset >= top:
        return _DOUBLINGS + 1 + (offset - top) // fmt.MAX_SEGMENT
    return (offset // fmt.FIRST_SEGMENT).bit_length()


def first_slot(number: int) -> int:
    """First slot of segment ``number``."""
    return 0 if number == 0 else (segment_span(number)[0] - fmt.SLAB_HEAD_SIZE) // fmt.WORD


def slots_of(number: int) -> int:
    """How many slots segment ``number`` has."""
    start, end = segment_span(number)
    return (end - max(start, fmt.SLAB_HEAD_SIZE)) // fmt.WORD


def fit(slot: int, width: int) -> int:
    """First slot at or behind ``slot`` where ``width`` slots lie within one segment."""
    number = segment_of(slot)
    while True:
        start, end = segment_span(number)
        first = max(slot, first_slot(number))
        if fmt.SLAB_HEAD_SIZE + (first + width) * fmt.WORD <= end:
            return first
        if (end - start) == fmt.MAX_SEGMENT and width * fmt.WORD > fmt.MAX_SEGMENT:
            msg = f"a series of {width} words does not fit into a segment of {fmt.MAX_SEGMENT} bytes"
            raise ValueError(msg)
        number += 1
