"""File descriptors that close with their owner."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Descriptor"]


class Descriptor:
    """An open file descriptor, closed when this object goes, at the latest. For whatever takes a ``fileno()``."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        """The descriptor's number; -1 once it is closed."""
        return self._number

    # ``close`` is bound here because module globals may be gone when an interpreter that ends drops this object.
    def close(self, _close: Callable[[int], None] = os.close) -> None:
        """Close it; again does nothing."""
        number, self._number = self._number, -1
        if number >= 0:
            with contextlib.suppress(OSError):
                _close(number)

    def __del__(self) -> None:
        self.close()
