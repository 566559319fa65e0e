"""The modules that the configuration names because they register callbacks: imported in the collector's process."""

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
    """Imports modules once, on a thread: one that hangs must not keep the collector from serving the rest.

    ``watch`` is told which one is being imported: one that ends the process each time is left out.
    """

    def __init__(self, names: Sequence[str], watch: Watch | None = None) -> None:
        self._watch = watch
        self._names = list(dict.fromkeys(names))
        self._imported: set[str] = set()
        self._thread: threading.Thread | None = None

    def load(self) -> None:
        """Begin to import them, in their order."""
        if self._names and self._thread is None:
            thread = threading.Thread(target=self._import, name="mpmetrics-modules", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system gives us no thread
                log.error("the modules %s cannot be imported: %s", self._names, error)
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
            except BaseException:  # whatever it raises, the others are imported
                log.exception("the module %r cannot be imported; callbacks that it registers do not run", name)
            else:
                self._imported.add(name)
                log.debug("imported %r for its callbacks in %.3f s", name, time.monotonic() - start)
            if self._watch is not None:
                self._watch.ended(f"import {name}")

    def wait(self, seconds: float) -> bool:
        """Wait until all are done, for at most so long; whether they are."""
        if self._thread is not None:
            self._thread.join(seconds)
            return not self._thread.is_alive()
        return True

    def readings(self) -> list[Reading]:
        """Which of them are there."""
        samples = [Sample("", (("module", name),), float(name in self._imported)) for name in self._names]
        text = "Whether a module that registers callbacks could be imported."
        return [Reading("mpmetrics_callback_module_up", "gauge", text, samples=samples)] if samples else []


def parse_modules(given: str | Sequence[str]) -> list[str]:
    """Module names from a comma-separated str or a sequence; TypeError and ValueError for what is no module's name."""
    names = given.split(",") if isinstance(given, str) else list(given)
    found = []
    for name in names:
        if not isinstance(name, str):
            msg = f"callbacks are names of modules, not {name!r}"
            raise TypeError(msg)
        stripped = name.strip()
        if stripped and not all(part.isidentifier() for part in stripped.split(".")):
            msg = f"callbacks: {name!r} is no module's name, such as 'shop.callbacks'"
            raise ValueError(msg)
        if stripped:
            found.append(stripped)
    return found
