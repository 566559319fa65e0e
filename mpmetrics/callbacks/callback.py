"""A callback that runs at each collection, and the list of the callbacks of one provider."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from mpmetrics.log_once import LogOnce

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mpmetrics.names.family import Family, Key

__all__ = [
    "DEFAULT_TIMEOUT",
    "Callback",
    "Callbacks",
    "Scope",
    "Target",
    "check_callback",
    "check_limits",
]

Scope = Literal["host", "worker"]
"""Where a callback runs: once for the whole server, in its collector, or in every worker."""

DEFAULT_TIMEOUT = 5.0
"""Default of the seconds that a callback may take."""


class Target(Protocol):
    """A metric that callbacks observe. One thread at a time calls the methods."""

    @property
    def family(self) -> Family:
        """The declaration of the metric."""

    @property
    def max_series(self) -> int:
        """How many series the metric may have in a process."""

    def key_of(self, attributes: Mapping[str, object] | None) -> Key:
        """Return the label values of the series with these attributes; TypeError or ValueError if they are invalid."""

    def add(self, key: Key, amount: float) -> Key:
        """Add to the stored total of a series; return its key. Past the cap that is the overflow series."""

    def resolve(self, key: Key) -> Key:
        """Return the key of the series that stores this one's value: itself, or past the cap the overflow series."""

    def put(self, key: Key, value: float) -> None:
        """Store the value that this process observed of a series."""

    def withdraw(self, key: Key) -> None:
        """Remove this process's value of a series that it no longer observes, unless it is a total that must stay."""

    def place(self, key: Key) -> int | None:
        """Return the index of the first word of a series in this process's slab; None if it is not in the slab."""


@dataclass(eq=False)
class Callback:
    """A function that observes ``targets``. ``is_single``: it is the callback of one instrument, its only target.

    ``name`` identifies it in self-metrics and messages. It may take ``timeout`` seconds. Its values are used again for
    ``max_age`` seconds; None: for the collector's ``max_age``. ``module`` is where the function was defined.
    """

    name: str
    function: Callable[[Any], object]
    targets: tuple[Target, ...]
    is_single: bool
    scope: Scope = "host"
    timeout: float = DEFAULT_TIMEOUT
    max_age: float | None = None
    module: str = ""
    _log: LogOnce = field(default_factory=LogOnce)

    def warn(self, cause: str, message: str, error: BaseException | None = None) -> None:
        """Log a warning about this callback, once for each cause."""
        self._log.warn(cause, "callback %s: %s", self.name, message, error=error)


class Callbacks:
    """The callbacks of one provider in this process. Any thread may call the methods."""

    def __init__(self) -> None:
        self._callbacks: dict[object, Callback] = {}
        self.on_added: Callable[[Callback], object] | None = None
        """Called with each callback that is added."""
        self.on_removed: Callable[[Callback], object] | None = None
        """Called with each callback that is removed."""

    def add(self, callback: Callback, token: object = None) -> None:
        """Run it from the next collection on. It replaces the callback that was added with the same token."""
        self._callbacks[callback if token is None else token] = callback
        if self.on_added is not None:
            self.on_added(callback)

    def free_name(self, name: str) -> str:
        """Return ``name``, with ``#2``, ``#3``, ... behind it if other callbacks have that name."""
        taken = {callback.name for callback in self}
        number = 2
        free = name
        while free in taken:
            free = f"{name}#{number}"
            number += 1
        return free

    def remove(self, callback: Callback) -> None:
        """Stop running it. Does nothing if it was not added."""
        for token, held in list(self._callbacks.items()):
            if held is callback:
                self._callbacks.pop(token, None)
                if self.on_removed is not None:
                    self.on_removed(callback)

    def clear(self) -> None:
        """Stop running all of them."""
        self._callbacks.clear()

    def of(self, scope: Scope) -> list[Callback]:
        """Return those of a scope in the order in which they run: of instruments, then of meters, oldest first."""
        callbacks = [callback for callback in list(self._callbacks.values()) if callback.scope == scope]
        return sorted(callbacks, key=lambda callback: not callback.is_single)

    def __iter__(self) -> Iterator[Callback]:
        return iter(list(self._callbacks.values()))


def check_callback(function: object, what: str) -> None:
    """Raise TypeError unless ``function`` can be called. ``what`` begins the message."""
    if not callable(function):
        msg = f"{what}: the callback must be a function, not {function!r}"
        raise TypeError(msg)


def check_limits(timeout: float, max_age: float | None, what: str) -> None:
    """Raise ValueError unless ``timeout`` is above 0 s and ``max_age`` at least 0 s. ``what`` begins the message."""
    if not (_is_number(timeout) and 0 < timeout < math.inf):
        msg = f"{what}: timeout must be a number of seconds above 0, not {timeout!r}"
        raise ValueError(msg)
    if max_age is not None and not (_is_number(max_age) and 0 <= max_age < math.inf):
        msg = f"{what}: max_age must be a number of seconds, at least 0, not {max_age!r}"
        raise ValueError(msg)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
