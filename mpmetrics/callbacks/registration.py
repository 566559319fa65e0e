"""The registration of a callback, which can be undone, and the module and name of its function."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpmetrics.callbacks.callback import Callback, Callbacks

__all__ = ["Registration", "origin"]


class Registration:
    """A callback that was registered."""

    def __init__(self, callbacks: Callbacks, callback: Callback) -> None:
        self._callbacks = callbacks
        self._callback = callback

    def unregister(self) -> None:
        """Stop running the callback. Calling it again does nothing."""
        self._callbacks.remove(self._callback)


def origin(function: object) -> tuple[str, str]:
    """Return module and qualified name of a function, a method, a partial, or the class of a callable object."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function) if callable(function) else function
    named = function if hasattr(function, "__qualname__") else type(function)
    return str(getattr(named, "__module__", None) or "?"), str(getattr(named, "__qualname__", "?"))
