"""Convert amounts that are neither ``int`` nor ``float``."""

from __future__ import annotations

from typing import Any

__all__ = ["as_number"]


def as_number(amount: Any) -> float:
    """The amount as a float. TypeError if it is no number; text is none, although ``float`` would accept it."""
    if isinstance(amount, str | bytes | bytearray):
        msg = f"must be real number, not {type(amount).__name__}"
        raise TypeError(msg)
    return float(amount)
