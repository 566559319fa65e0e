"""Providers: where a set of instruments puts its values, in a store or in private memory; and the default provider.

A provider belongs to one process. A forked child inherits it, and it continues there on its own: the child writes a
slab of its own. Any thread may call its methods.
"""

from __future__ import annotations

import logging
import os
import time
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, cast

from mpmetrics import fork
from mpmetrics.errors import MpmetricsError, StoreError
from mpmetrics.instruments.overflow import OverflowCount
from mpmetrics.meter import Meter, MeterScope
from mpmetrics.names.attributes import check_attributes
from mpmetrics.names.naming import text
from mpmetrics.provider_base import ProviderBase, default_provider
from mpmetrics.serving.callback_service import CallbackService
from mpmetrics.storage.fold import fold
from mpmetrics.storage.store import Store
from mpmetrics.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mpmetrics.names.attributes import Attributes
    from mpmetrics.storage.epoch import Epoch

__all__ = ["Provider", "get_meter", "get_provider", "set_provider"]

log = logging.getLogger("mpmetrics")

FOLD_AT = 64
"""Dead slabs at which a process folds them itself, at its start and its end."""


class Provider(ProviderBase):
    """Keeps the values of instruments in the store at ``directory``; without one, in the memory of this process.

    A store that does not exist is created. The provider joins the store's current epoch, or begins the first one;
    ``epoch`` is the number of another epoch to join. ``attributes`` are added to each measurement of all meters.
    ``resource`` describes the measured program, shown as ``target_info``. ``clock`` returns the Unix time in seconds,
    which becomes the creation time of series.

    Raises :class:`~mpmetrics.errors.StoreUnavailableError` if the store cannot be created, opened or trusted;
    TypeError and ValueError for invalid attributes.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        *,
        epoch: int | None = None,
        attributes: Mapping[str, object] | None = None,
        resource: Mapping[str, object] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(clock=clock)
        self.memory.on_overflow = OverflowCount(self)
        self.service = CallbackService(self, is_on=True)
        self.unavailable: str | None = None
        self.resource: dict[str, str] = {}
        self._attributes: list[tuple[str, str, dict[str, str]]] = []
        self.describe(attributes, resource)
        self._meters: dict[object, Meter] = {}
        self._lock = Turns()
        self._closed = False
        fork.register(self)
        if directory is not None:
            self.attach(Store(directory, clock=clock).join(epoch))

    @classmethod
    def deferred(cls) -> Provider:
        """Return a provider whose store :meth:`attach` adds later; until then, values wait in this process.

        Its worker callbacks run only in processes that start its :attr:`service`.
        """
        provider = cls()
        provider.memory.expect_store()
        provider.service.is_on = False
        return provider

    @property
    def epoch(self) -> Epoch | None:
        """The epoch that this process counts in; None without a store."""
        return self.memory.epoch

    @property
    def directory(self) -> str | None:
        """The directory of the store; None without a store."""
        return None if self.epoch is None else os.path.dirname(self.epoch.path)

    def attach(self, epoch: Epoch) -> None:
        """Move all values into ``epoch`` and write there from now on.

        Raises :class:`~mpmetrics.errors.StoreError` if this fails; then the values stay in this process.
        """
        try:
            self.memory.attach(epoch)
        except OSError as error:
            msg = f"the epoch {epoch.path} cannot be used, so values stay in this process: {error}"
            raise StoreError(msg) from error
        self._fold(epoch)
        self.service.resume()

    def _fold(self, epoch: Epoch) -> None:
        """Fold the dead processes if they are many, so that they do not pile up where no collector runs.

        Called at the start and the end of a process, because no request waits for these.
        """
        try:
            fold(epoch.path, at_least=FOLD_AT)
        except (StoreError, OSError) as error:
            log.warning("dead processes of %s are not folded, the next process will try: %s", epoch.path, error)

    def meter(self, name: str, version: str = "", attributes: Mapping[str, object] | None = None) -> Meter:
        """Return the meter with this name, version and attributes; the same object each time.

        ``attributes`` are added to each measurement of its instruments, and so are the provider's attributes as they
        are at the first call. TypeError and ValueError for an invalid name, version or attribute.
        """
        for what, value in (("name", name), ("version", version)):
            if not isinstance(value, str):
                msg = f"a meter's {what} must be a str, not {value!r}"
                raise TypeError(msg)
        if not name:
            msg = "a meter's name is empty; give the name of the library or application that it measures"
            raise ValueError(msg)
        own = check_attributes(attributes, f"meter {name!r}")
        with self._lock:
            meter = self._meters.get((name, version, *sorted(own.items())))
            if meter is None:
                fixed: dict[str, str] = {}
                for names, versions, given in self._attributes:
                    if fnmatchcase(name, names) and fnmatchcase(version, versions):
                        fixed.update(given)
                made = Meter(MeterScope(self, text(name), text(version), fixed | own))
                meter = self._meters.setdefault((name, version, *sorted(own.items())), made)
            return meter

    def describe(self, attributes: Mapping[str, object] | None, resource: Mapping[str, object] | None) -> None:
        """Replace the global attributes, for meters that are made from now on, and the resource."""
        checked, described = check_attributes(attributes, "global attributes"), check_attributes(resource, "resource")
        self._attributes, self.resource = [("*", "*", checked)], described

    def add_attributes(self, attributes: Mapping[str, object] | None, *, meter: str = "*", version: str = "*") -> None:
        """Add ``attributes`` to each measurement of the meters that are made from now on; later calls win.

        Only meters whose name and version match the patterns ``meter`` and ``version`` of :mod:`fnmatch` get them.
        TypeError and ValueError for invalid attributes.
        """
        self._attributes.append((meter, version, check_attributes(attributes, "global attributes")))

    def after_fork_in_child(self) -> None:
        """The thread that held the lock does not exist here."""
        self._lock.after_fork_in_child()

    def force_flush(self) -> None:
        """Move the values that wait for room into the store, if it has room. No other values are ever buffered."""
        self.memory.move_in()

    def shutdown(self) -> None:
        """Leave the store and forget all callbacks. Calling it again does nothing.

        Values written so far remain in the store, like those of a dead process; later ones stay in this process.
        Collecting from this provider raises :class:`~mpmetrics.errors.ShutdownError` from now on.
        """
        if not self._closed:
            self._closed = True
            self.callbacks.clear()
            self.service.close()
            epoch = self.epoch
            if epoch is not None:
                self._fold(epoch)
            self.memory.close()

    @property
    def closed(self) -> bool:
        """True once :meth:`shutdown` was called."""
        return self._closed


def get_provider(environ: Mapping[str, str] = os.environ) -> Provider:
    """Return the default provider. The first call makes it: in the store ``MPMETRICS_DIR``, else in private memory.

    If the store cannot be used, the log says so, values stay private to this process, and the application continues.
    """
    return cast("Provider", default_provider.get(environ))


def _from_environment(environ: Mapping[str, str]) -> Provider:
    directory = environ.get("MPMETRICS_DIR")
    if not directory:
        return Provider()
    epoch = environ.get("MPMETRICS_EPOCH")
    try:
        return Provider(directory, epoch=int(epoch) if epoch and epoch.isdecimal() else None)
    except MpmetricsError as error:
        log.error("%s; the metrics of process %d stay private to it", error, os.getpid())
        provider = Provider()
        provider.unavailable = str(error)
        return provider


default_provider.make = _from_environment


def set_provider(provider: Provider | None) -> None:
    """Make ``provider`` the default one of instruments made from now on. None: the next use makes a new one.

    TypeError unless it is a :class:`Provider` or None.
    """
    if not isinstance(provider, Provider | None):
        msg = f"the default provider is a mpmetrics.Provider, not {provider!r}"
        raise TypeError(msg)
    default_provider.set(provider)


def get_meter(name: str, version: str = "", attributes: Attributes | None = None) -> Meter:
    """Return a meter of the default provider; arguments and errors as in :meth:`Provider.meter`."""
    return get_provider().meter(name, version, attributes)
