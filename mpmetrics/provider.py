"""Providers: where the values of a set of instruments go.

A provider belongs to one process and is inherited by its forked children, in which it goes on by itself. It is the one
thing that knows both the store and the memory of the process.
"""

from __future__ import annotations

import logging
import os
import time
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, cast

from mpmetrics import fork
from mpmetrics.destination import Destination, default
from mpmetrics.errors import MpmetricsError, StoreError
from mpmetrics.instruments.overflow import OverflowCount
from mpmetrics.meter import Meter, Owner
from mpmetrics.names.attributes import check_attributes
from mpmetrics.names.naming import text
from mpmetrics.serving.service import CallbackService
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
"""Dead slabs that a process finds before it folds them itself."""


class Provider(Destination):
    """Instruments' values, in the store in ``directory`` or, without one, in the memory of this process.

    The store is created when it is not there; its current epoch is joined, or the first one begun. ``epoch`` joins a
    certain epoch instead. ``attributes`` go on each measurement of the instruments of all meters; ``resource``
    describes what the metrics are of, and is shown as ``target_info``. ``clock`` tells the Unix time in seconds, at
    which series are made.

    Raises :class:`~mpmetrics.errors.StoreUnavailableError` when the store cannot be created, opened or trusted;
    TypeError and ValueError for attributes that are none.
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
        """A provider whose store is attached later: until then values wait in this process.

        Its callbacks run in no process that has not started its :attr:`service`.
        """
        provider = cls()
        provider.memory.expect_store()
        provider.service.is_on = False
        return provider

    @property
    def epoch(self) -> Epoch | None:
        """The epoch of the store that this process is part of."""
        return self.memory.epoch

    @property
    def directory(self) -> str | None:
        """The store's directory, or None without one."""
        return None if self.epoch is None else os.path.dirname(self.epoch.path)

    def attach(self, epoch: Epoch) -> None:
        """Move everything into ``epoch`` and write there from now on.

        Raises :class:`~mpmetrics.errors.StoreError` when that cannot be done; values stay here then.
        """
        try:
            self.memory.attach(epoch)
        except OSError as error:
            msg = f"the epoch {epoch.path} cannot be used: {error}"
            raise StoreError(msg) from error
        self._fold(epoch)
        self.service.resume()

    def _fold(self, epoch: Epoch) -> None:
        """At the start and at the end of a process, none of which a request waits for: fold the dead if they are many.

        Else they would pile up where nobody collects.
        """
        try:
            fold(epoch.path, at_least=FOLD_AT)
        except (StoreError, OSError) as error:
            log.warning("the dead of %s stay for the next process: %s", epoch.path, error)

    def meter(self, name: str, version: str = "", attributes: Mapping[str, object] | None = None) -> Meter:
        """The meter of this name, version and attributes, which go on each measurement of its instruments.

        Asked for again, it is the same one. Global attributes are those that hold when it is first asked for.
        TypeError and ValueError for a name, version or attributes that are none.
        """
        for what, value in (("name", name), ("version", version)):
            if not isinstance(value, str):
                msg = f"a meter's {what} is a str, not {value!r}"
                raise TypeError(msg)
        if not name:
            msg = "a meter needs a name, such as that of the library or the application it is for"
            raise ValueError(msg)
        own = check_attributes(attributes, f"meter {name!r}")
        with self._lock:
            meter = self._meters.get((name, version, *sorted(own.items())))
            if meter is None:
                fixed: dict[str, str] = {}
                for names, versions, given in self._attributes:
                    if fnmatchcase(name, names) and fnmatchcase(version, versions):
                        fixed.update(given)
                made = Meter(Owner(self, text(name), text(version), fixed | own))
                meter = self._meters.setdefault((name, version, *sorted(own.items())), made)
            return meter

    def describe(self, attributes: Mapping[str, object] | None, resource: Mapping[str, object] | None) -> None:
        """Have these global attributes, for meters that are made from now on, and this resource, and no others."""
        checked, described = check_attributes(attributes, "global attributes"), check_attributes(resource, "resource")
        self._attributes, self.resource = [("*", "*", checked)], described

    def add_attributes(self, attributes: Mapping[str, object] | None, *, meter: str = "*", version: str = "*") -> None:
        """Put ``attributes`` on each measurement of meters that are made from now on; later ones win.

        Only of those whose name and version match the patterns ``meter`` and ``version``, in which ``*`` stands for
        anything (:mod:`fnmatch`). TypeError and ValueError for attributes that are none.
        """
        self._attributes.append((meter, version, check_attributes(attributes, "global attributes")))

    def after_fork_in_child(self) -> None:
        """A thread that was making a meter is not here."""
        self._lock.after_fork_in_child()

    def force_flush(self) -> None:
        """Move what waits for room into the store now, as far as it has any. Values are never buffered else."""
        self.memory.move_in()

    def shutdown(self) -> None:
        """Give up the store; calling it again does nothing. What is written later stays in this process.

        The values written so far remain in the store, as a dead process's do. Callbacks are forgotten. Collecting from
        a provider that was shut down raises :class:`~mpmetrics.errors.ShutdownError`.
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
        """Whether :meth:`shutdown` was called."""
        return self._closed


def get_provider(environ: Mapping[str, str] = os.environ) -> Provider:
    """The default provider, made at the first call: in the store that ``MPMETRICS_DIR`` names, else in private memory.

    A store that cannot be used is said once in the log, and values stay private: the application goes on.
    """
    return cast("Provider", default.get(environ))


def _from_environment(environ: Mapping[str, str]) -> Provider:
    directory = environ.get("MPMETRICS_DIR")
    if not directory:
        return Provider()
    epoch = environ.get("MPMETRICS_EPOCH")
    try:
        return Provider(directory, epoch=int(epoch) if epoch and epoch.isdecimal() else None)
    except MpmetricsError as error:
        log.error("%s; metrics of process %d stay private", error, os.getpid())
        provider = Provider()
        provider.unavailable = str(error)
        return provider


default.make = _from_environment


def set_provider(provider: Provider | None) -> None:
    """Make ``provider`` the default one for instruments made from now on; None: decide anew at the next use."""
    default.set(provider)


def get_meter(name: str, version: str = "", attributes: Attributes | None = None) -> Meter:
    """A meter of the default provider; arguments and errors as in :meth:`Provider.meter`."""
    return get_provider().meter(name, version, attributes)
