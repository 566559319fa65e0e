"""CallbackModules: imports, in the collector's process, the configured modules that register callbacks."""

from __future__ import annotations

import importlib
import logging
import threading
import time
from typing import TYPE_CHECKING

from mpmetrics.collector.reading import Reading, Sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpmetrics.callbacks.runner import Watch

__all__ = ["CallbackModules", "parse_modules"]

log = logging.getLogger("mpmetrics")


class CallbackModules:
    """Imports modules once, on a thread, so that a module which hangs does not stop the collector.

    ``watch`` is told which module is being imported; it suspends a module that ends the process each time.
    """

    def __init__(self, names: Sequence[str], watch: Watch | None = None) -> None:
        self._watch = watch
        self._names = list(dict.fromkeys(names))
        self._imported: set[str] = set()
        self._thread: threading.Thread | None = None

    def load(self) -> None:
        """Start to import the modules in their order, once."""
        if self._names and self._thread is None:
            thread = threading.Thread(target=self._import, name="mpmetrics-modules", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system has no thread for us
                log.error("the modules %s cannot be imported, so their callbacks do not run: %s", self._names, error)
            else:
                self._thread = thread

    def _import(self) -> None:
        for name in self._names:
            if self._watch is not None:
                if self._watch.is_suspended(f"import {name}"):
                    continue
                self._watch.began(f"import {name}")
            start = time.monotonic()
            try:
                importlib.import_module(name)
            except BaseException:  # whatever a module raises, the others are imported
                log.exception("the module %r cannot be imported, so its callbacks do not run", name)
            else:
                self._imported.add(name)
                log.debug("imported %r for its callbacks in %.3f s", name, time.monotonic() - start)
            if self._watch is not None:
                self._watch.ended(f"import {name}")

    def wait(self, seconds: float) -> bool:
        """Wait at most ``seconds`` until all imports have ended; True if they have."""
        if self._thread is not None:
            self._thread.join(seconds)
            return not self._thread.is_alive()
        return True

    def readings(self) -> list[Reading]:
        """Return the self-metric that tells which modules are imported."""
        samples = [Sample("", (("module", name),), float(name in self._imported)) for name in self._names]
        text = "Whether a module that registers callbacks could be imported."
        return [Reading("mpmetrics_callback_module_up", "gauge", text, samples=samples)] if samples else []


def parse_modules(given: str | Sequence[str]) -> list[str]:
    """Return the module names in a comma-separated str or a sequence; TypeError and ValueError for an invalid name."""
    names = given.split(",") if isinstance(given, str) else list(given)
    found = []
    for name in names:
        if not isinstance(name, str):
            msg = f"callbacks must be names of modules, not {name!r}"
            raise TypeError(msg)
        stripped = name.strip()
        if stripped and not all(part.isidentifier() for part in stripped.split(".")):
            msg = f"callbacks: {name!r} is not a module's name; give one such as 'shop.callbacks'"
            raise ValueError(msg)
        if stripped:
            found.append(stripped)
    return found
