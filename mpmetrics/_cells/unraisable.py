"""Exceptions that have nobody to go to."""

from __future__ import annotations

__all__ = ["Unraisable"]


class Unraisable:
    """Hands an exception to ``sys.unraisablehook``, as the interpreter does with what a finaliser raises."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __del__(self) -> None:
        raise self._error
