"""Amounts that are neither ``int`` nor ``float``: of other types of numbers, or none."""

from __future__ import annotations

from typing import Any

__all__ = ["as_number"]


def as_number(amount: Any) -> float:
    """An amount of any type of number; TypeError for text, which ``float`` would take, and for what is none."""
    if isinstance(amount, str | bytes | bytearray):
        msg = f"must be real number, not {type(amount).__name__}"
        raise TypeError(msg)
    return float(amount)
