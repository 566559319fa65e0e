"""Meters: makers of instruments that share a name, a version and attributes, as in OpenTelemetry and GoFrame's gmetric.

https://opentelemetry.io/docs/specs/otel/metrics/api/. A meter belongs to one provider; any thread may use it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from mpmetrics.callbacks.callback import DEFAULT_TIMEOUT, Callback, Scope, check_callback, check_limits
from mpmetrics.callbacks.registration import Registration, origin
from mpmetrics.instruments.attributed import (
    Description,
    MeterCounter,
    MeterGauge,
    MeterHistogram,
    MeterUpDownCounter,
    Owner,
)
from mpmetrics.instruments.gauge import GaugeMode, check_mode
from mpmetrics.instruments.histogram import check_bounds
from mpmetrics.instruments.metric import DEFAULT_MAX_SERIES
from mpmetrics.instruments.observable import (
    Observable,
    ObservableCounter,
    ObservableGauge,
    ObservableUpDownCounter,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mpmetrics.callbacks.observer import InstrumentObserver, MeterObserver
    from mpmetrics.names.attributes import Attributes

__all__ = ["DEFAULT_BUCKETS", "Meter", "Owner"]

Temporality = Literal["cumulative", "delta"]
Function = TypeVar("Function", bound="Callable[[MeterObserver], object]")

DEFAULT_BUCKETS = (0, 5, 10, 25, 50, 75, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10000)
"""Bounds of a meter's histograms unless told otherwise: OpenTelemetry's."""


class Meter:
    """Makes instruments. Get one from :func:`mpmetrics.get_meter` or :meth:`mpmetrics.Provider.meter`.

    What the methods have in common: ``name`` starts with a letter and goes on with letters, digits and ``_.-/``, at
    most 255 characters; two names of a provider may not differ in case alone. ``help`` is shown with the metric.
    ``unit`` is a UCUM unit, such as ``s``, ``By`` or ``1``, and becomes part of the name in Prometheus. ``attributes``
    go on each measurement, which can override them. ``max_series`` is how many series the metric may have. Making the
    same instrument again gives another object for the same metric.

    They raise TypeError and ValueError for an argument that makes no sense, and
    :class:`~mpmetrics.errors.ConflictError` when the name in Prometheus belongs to a different metric already.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner

    @property
    def name(self) -> str:
        """The name that it was asked for with."""
        return self._owner.name

    @property
    def version(self) -> str:
        """The version that it was asked for with, or an empty str."""
        return self._owner.version

    def counter(
        self,
        name: str,
        help: str = "",
        unit: str = "",
        *,
        attributes: Attributes | None = None,
        max_series: int = DEFAULT_MAX_SERIES,
    ) -> MeterCounter:
        """A total that only grows, with ``add`` and ``inc``."""
        return MeterCounter(self._owner, "counter", Description(name, help, unit, attributes, max_series))

    def up_down_counter(
        self,
        name: str,
        help: str = "",
        unit: str = "",
        *,
        attributes: Attributes | None = None,
        multiprocess_mode: Literal["sum", "livesum"] = "sum",
        max_series: int = DEFAULT_MAX_SERIES,
    ) -> MeterUpDownCounter:
        """A total that goes up and down, with ``add``, ``inc`` and ``dec``; mode as in :class:`UpDownCounter`."""
        if multiprocess_mode not in ("sum", "livesum"):
            msg = f"up-down counter {name!r}: multiprocess_mode is 'sum' or 'livesum', not {multiprocess_mode!r}"
            raise ValueError(msg)
        description = Description(name, help, unit, attributes, max_series)
        return MeterUpDownCounter(self._owner, "updowncounter", description, mode=multiprocess_mode)

    def gauge(
        self,
        name: str,
        help: str = "",
        unit: str = "",
        *,
        attributes: Attributes | None = None,
        multiprocess_mode: GaugeMode = "liveall",
        max_series: int = DEFAULT_MAX_SERIES,
    ) -> MeterGauge:
        """A value of the moment, with ``set``; mode as in :class:`Gauge`."""
        check_mode(name, multiprocess_mode)
        description = Description(name, help, unit, attributes, max_series)
        return MeterGauge(self._owner, "gauge", description, mode=multiprocess_mode)

    def histogram(
        self,
        name: str,
        help: str = "",
        unit: str = "",
        *,
        attributes: Attributes | None = None,
        buckets: Iterable[float] = DEFAULT_BUCKETS,
        max_series: int = DEFAULT_MAX_SERIES,
    ) -> MeterHistogram:
        """A distribution, with ``record``; ``buckets`` are upper bounds, in the unit of what is recorded."""
        description = Description(name, help, unit, attributes, max_series)
        return MeterHistogram(self._owner, "histogram", description, bounds=check_bounds(name, buckets))

    def observable_counter(
        self,
        name: str,
        help: str = "",
        unit: str = "",
        *,
        attributes: Attributes | None = None,
        callback: Callable[[InstrumentObserver], object] | None = None,
        temporality: Temporality = "cumulative",
        scope: Scope = "host",
        timeout: float = DEFAULT_TIMEOUT,
        max_age: float | None = None,
        max_series: int = DEFAULT_MAX_SERIES,
    ) -> ObservableCounter:
        """A total that only grows, observed by callbacks.

        ``callback`` is called as ``callback(observer)`` when somebody looks, reports with
        ``observer.observe(value, attributes)``, and may be a coroutine function, or a generator that yields the
        arguments of ``observe``. What is observed is the total so far (``temporality="cumulative"``), or what came on
        top of it (``"delta"``): that total is kept in the store. A series that is not observed is absent from that
        collection.

        ``scope="host"``: it runs once for the whole server, in the collector. ``"worker"``: in each worker, whose
        totals add up; those of dead workers stay. It may take ``timeout`` seconds, and less when the scraper says so.
        What it observed is used again for ``max_age`` seconds; None leaves that to the collector.
        """
        description = Description(name, help, unit, attributes, max_series)
        fields = self._fields(name, scope, temporality, mode="")
        self._check_own(name, callback, timeout, max_age)
        made = ObservableCounter(self._owner, "counter", description, **fields)
        self._register_own(made, callback, timeout, max_age)
        return made

    def observable_up_down_counter(
        self,
        name: str,
        help: str = "",
        unit: str = "",
        *,
        attributes: Attributes | None = None,
        callback: Callable[[InstrumentObserver], object] | None = None,
        temporality: Temporality = "cumulative",
        scope: Scope = "host",
        timeout: float = DEFAULT_TIMEOUT,
        max_age: float | None = None,
        max_series: int = DEFAULT_MAX_SERIES,
    ) -> ObservableUpDownCounter:
        """A total that goes up and down, observed by callbacks; as :meth:`observable_counter`.

        Over workers, cumulative totals of the living ones add up, and what ``delta`` observations moved adds up for
        ever.
        """
        description = Description(name, help, unit, attributes, max_series)
        fields = self._fields(name, scope, temporality, mode="livesum" if temporality == "cumulative" else "sum")
        self._check_own(name, callback, timeout, max_age)
        made = ObservableUpDownCounter(self._owner, "updowncounter", description, **fields)
        self._register_own(made, callback, timeout, max_age)
        return made

    def observable_gauge(
        self,
        name: str,
        help: str = "",
        unit: str = "",
        *,
        attributes: Attributes | None = None,
        callback: Callable[[InstrumentObserver], object] | None = None,
        scope: Scope = "host",
        multiprocess_mode: GaugeMode | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        max_age: float | None = None,
        max_series: int = DEFAULT_MAX_SERIES,
    ) -> ObservableGauge:
        """A value of the moment, observed by callbacks; as :meth:`observable_counter`.

        ``multiprocess_mode``, of scope ``worker`` only, says how the workers' values are put together, as in
        :class:`Gauge`; by default each living worker has a series.
        """
        if multiprocess_mode is not None:
            check_mode(name, multiprocess_mode)
            if scope == "host":
                msg = f"gauge {name!r}: a callback of scope 'host' gives one value: no mode {multiprocess_mode!r}"
                raise ValueError(msg)
        description = Description(name, help, unit, attributes, max_series)
        mode = "" if scope == "host" else multiprocess_mode or "liveall"
        fields = self._fields(name, scope, "cumulative", mode)
        self._check_own(name, callback, timeout, max_age)
        made = ObservableGauge(self._owner, "gauge", description, **fields)
        self._register_own(made, callback, timeout, max_age)
        return made

    def register_callback(
        self,
        function: Callable[[MeterObserver], object],
        *instruments: Observable,
        timeout: float = DEFAULT_TIMEOUT,
        max_age: float | None = None,
    ) -> Registration:
        """Have ``function(observer)`` observe ``instruments``: ``observer.observe(instrument, value, attributes)``.

        Meters' callbacks run after those of instruments, in the order of registration. ``timeout`` and ``max_age`` as
        in :meth:`observable_counter`. TypeError unless ``function`` can be called and ``instruments`` are asynchronous
        ones; ValueError when there are none, when they are of another meter, or when their scopes differ.
        """
        what = f"meter {self.name!r}"
        check_callback(function, what)
        check_limits(timeout, max_age, what)
        if not instruments:
            msg = f"{what}: a callback needs the instruments that it is going to observe"
            raise ValueError(msg)
        for instrument in instruments:
            if not isinstance(instrument, Observable):
                msg = f"{what}: a callback observes asynchronous instruments, and {instrument!r} is none"
                raise TypeError(msg)
            if instrument.owner != self._owner:
                msg = f"{what}: {instrument!r} is of the meter {instrument.owner.name!r}; a callback has one meter"
                raise ValueError(msg)
            if instrument.scope != instruments[0].scope:
                msg = f"{what}: {instrument!r} and {instruments[0]!r} differ in scope; a callback has one scope"
                raise ValueError(msg)
        module, name = origin(function)
        callback = Callback(
            self._owner.provider.callbacks.free_name(f"{module}.{name}"),
            function,
            instruments,
            is_single=False,
            scope=instruments[0].scope,
            timeout=timeout,
            max_age=max_age,
            module=module,
        )
        self._owner.provider.callbacks.add(callback)
        return Registration(self._owner.provider.callbacks, callback)

    def callback(
        self, *instruments: Observable, timeout: float = DEFAULT_TIMEOUT, max_age: float | None = None
    ) -> Callable[[Function], Function]:
        """The same as a decorator, which leaves the function as it is."""

        def register(function: Function) -> Function:
            self.register_callback(function, *instruments, timeout=timeout, max_age=max_age)
            return function

        return register

    def _fields(self, name: str, scope: Scope, temporality: Temporality, mode: str) -> dict[str, str]:
        """The fields of an asynchronous instrument's family; ValueError for a scope or temporality that is none."""
        for what, value, known in (("scope", scope, get_args(Scope)), ("temporality", temporality, _TEMPORALITIES)):
            if value not in known:
                msg = f"instrument {name!r}: {what} is one of {', '.join(known)}, not {value!r}"
                raise ValueError(msg)
        return {"scope": scope, "temporality": temporality, "mode": mode}

    def _check_own(self, name: str, function: object, timeout: float, max_age: float | None) -> None:
        """Before anything is made: TypeError and ValueError for a callback and limits that are none."""
        what = f"instrument {name!r}"
        if function is not None:
            check_callback(function, what)
        check_limits(timeout, max_age, what)

    def _register_own(
        self, instrument: Observable, function: Callable[[Any], object] | None, timeout: float, max_age: float | None
    ) -> None:
        if function is not None:
            module, _ = origin(function)
            own = Callback(
                instrument.name,
                function,
                (instrument,),
                is_single=True,
                scope=instrument.scope,
                timeout=timeout,
                max_age=max_age,
                module=module,
            )
            # In the place of the one of an equal instrument: both would observe the same.
            self._owner.provider.callbacks.add(own, instrument.token)


_TEMPORALITIES = get_args(Temporality)
