"""Meters make instruments that share a name, a version and attributes, as in OpenTelemetry and GoFrame's gmetric.

Source: https://opentelemetry.io/docs/specs/otel/metrics/api/. A meter belongs to one provider. Any thread may use it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from mpmetrics.callbacks.callback import DEFAULT_TIMEOUT, Callback, Scope, check_callback, check_limits
from mpmetrics.callbacks.registration import Registration, origin
from mpmetrics.instruments.gauge import GaugeMode, check_mode
from mpmetrics.instruments.histogram import check_bounds
from mpmetrics.instruments.meter_instruments import (
    Description,
    MeterCounter,
    MeterGauge,
    MeterHistogram,
    MeterScope,
    MeterUpDownCounter,
)
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

__all__ = ["DEFAULT_BUCKETS", "Meter", "MeterScope"]

Temporality = Literal["cumulative", "delta"]
Function = TypeVar("Function", bound="Callable[[MeterObserver], object]")

DEFAULT_BUCKETS = (0, 5, 10, 25, 50, 75, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10000)
"""Default bounds of a meter's histograms: those of OpenTelemetry."""


class Meter:
    """Makes instruments. :func:`mpmetrics.get_meter` and :meth:`mpmetrics.Provider.meter` return one.

    The arguments that the methods share: ``name`` is a letter, then letters, digits and ``_.-/``, at most 255
    characters; two names of a provider must not differ in case alone. ``help`` is shown with the metric. ``unit`` is a
    UCUM unit, such as ``s``, ``By`` or ``1``, and becomes part of the name in Prometheus. ``attributes`` are added to
    each measurement, and a measurement can override them. ``max_series`` is how many series the metric may have in a
    process. The same arguments again make another object of the same metric.

    The methods raise TypeError and ValueError for an invalid argument, and
    :class:`~mpmetrics.errors.ConflictError` if this process uses the name in Prometheus for a different metric.
    """

    def __init__(self, scope: MeterScope) -> None:
        self._scope = scope

    @property
    def name(self) -> str:
        """The name that was given to ``get_meter``."""
        return self._scope.name

    @property
    def version(self) -> str:
        """The version that was given to ``get_meter``, by default an empty str."""
        return self._scope.version

    def counter(
        self,
        name: str,
        help: str = "",
        unit: str = "",
        *,
        attributes: Attributes | None = None,
        max_series: int = DEFAULT_MAX_SERIES,
    ) -> MeterCounter:
        """Make a counter, a total that only grows. It has ``add`` and ``inc``."""
        return MeterCounter(self._scope, "counter", Description(name, help, unit, attributes, max_series))

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
        """Make a total that goes up and down. It has ``add``, ``inc`` and ``dec``; modes as :class:`UpDownCounter`."""
        if multiprocess_mode not in ("sum", "livesum"):
            msg = f"up-down counter {name!r}: multiprocess_mode must be 'sum' or 'livesum', not {multiprocess_mode!r}"
            raise ValueError(msg)
        description = Description(name, help, unit, attributes, max_series)
        return MeterUpDownCounter(self._scope, "updowncounter", description, mode=multiprocess_mode)

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
        """Make a gauge, a current value. It has ``set``; modes as in :class:`Gauge`."""
        check_mode(name, multiprocess_mode)
        description = Description(name, help, unit, attributes, max_series)
        return MeterGauge(self._scope, "gauge", description, mode=multiprocess_mode)

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
        """Make a histogram. It has ``record``; ``buckets`` are upper bounds, in the unit of the recorded values."""
        description = Description(name, help, unit, attributes, max_series)
        return MeterHistogram(self._scope, "histogram", description, bounds=check_bounds(name, buckets))

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
        """Make a counter whose values callbacks observe.

        Each collection calls ``callback(observer)``, which reports with ``observer.observe(value, attributes)``. It may
        be a coroutine function, or a generator that yields the arguments of ``observe``. With
        ``temporality="cumulative"`` it reports the total so far. With ``"delta"`` it reports the increase since its
        last call, and the store keeps the total. A series that it does not report is absent from that collection.

        ``scope="host"``: the callback runs once for the whole server, in the collector. ``"worker"``: it runs in each
        worker, and the totals add up; those of dead workers stay. It may take ``timeout`` seconds, or less if the
        scraper waits less. Its values are used again for ``max_age`` seconds; None: for the collector's ``max_age``.
        """
        description = Description(name, help, unit, attributes, max_series)
        fields = self._fields(name, scope, temporality, mode="")
        self._check_own(name, callback, timeout, max_age)
        made = ObservableCounter(self._scope, "counter", description, **fields)
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
        """Make a total that goes up and down, whose values callbacks observe; as :meth:`observable_counter`.

        With scope ``worker``, cumulative totals add up over living workers, and deltas over all workers, dead ones too.
        """
        description = Description(name, help, unit, attributes, max_series)
        fields = self._fields(name, scope, temporality, mode="livesum" if temporality == "cumulative" else "sum")
        self._check_own(name, callback, timeout, max_age)
        made = ObservableUpDownCounter(self._scope, "updowncounter", description, **fields)
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
        """Make a gauge whose values callbacks observe; as :meth:`observable_counter`.

        ``multiprocess_mode``, for scope ``worker`` only, says how the values of the workers merge, as in
        :class:`Gauge`; by default each living worker has a series.
        """
        if multiprocess_mode is not None:
            check_mode(name, multiprocess_mode)
            if scope == "host":
                msg = (
                    f"gauge {name!r}: multiprocess_mode {multiprocess_mode!r} needs scope='worker'; a callback of scope"
                    " 'host' runs in one process"
                )
                raise ValueError(msg)
        description = Description(name, help, unit, attributes, max_series)
        mode = "" if scope == "host" else multiprocess_mode or "liveall"
        fields = self._fields(name, scope, "cumulative", mode)
        self._check_own(name, callback, timeout, max_age)
        made = ObservableGauge(self._scope, "gauge", description, **fields)
        self._register_own(made, callback, timeout, max_age)
        return made

    def register_callback(
        self,
        function: Callable[[MeterObserver], object],
        *instruments: Observable,
        timeout: float = DEFAULT_TIMEOUT,
        max_age: float | None = None,
    ) -> Registration:
        """Call ``function(observer)`` at each collection; it reports values of ``instruments``.

        It reports with ``observer.observe(instrument, value, attributes)``. The callbacks of meters run after those of
        single instruments, in the order of registration. ``timeout`` and ``max_age`` as in :meth:`observable_counter`.

        TypeError if ``function`` cannot be called or an instrument is not observable. ValueError if ``instruments`` is
        empty, if one belongs to another meter, or if their scopes differ.
        """
        what = f"meter {self.name!r}"
        check_callback(function, what)
        check_limits(timeout, max_age, what)
        if not instruments:
            msg = f"{what}: register_callback() needs the observable instruments that the callback reports"
            raise ValueError(msg)
        for instrument in instruments:
            if not isinstance(instrument, Observable):
                msg = f"{what}: {instrument!r} is not observable; make it with one of the meter's observable_ methods"
                raise TypeError(msg)
            if instrument.meter_scope != self._scope:
                other = instrument.meter_scope.name
                msg = f"{what}: {instrument!r} belongs to the meter {other!r}; register one callback for each meter"
                raise ValueError(msg)
            if instrument.scope != instruments[0].scope:
                msg = f"{what}: {instrument!r} and {instruments[0]!r} differ in scope; register one callback for each"
                raise ValueError(msg)
        module, name = origin(function)
        callback = Callback(
            self._scope.provider.callbacks.free_name(f"{module}.{name}"),
            function,
            instruments,
            is_single=False,
            scope=instruments[0].scope,
            timeout=timeout,
            max_age=max_age,
            module=module,
        )
        self._scope.provider.callbacks.add(callback)
        return Registration(self._scope.provider.callbacks, callback)

    def callback(
        self, *instruments: Observable, timeout: float = DEFAULT_TIMEOUT, max_age: float | None = None
    ) -> Callable[[Function], Function]:
        """:meth:`register_callback` as a decorator, which returns the function unchanged."""

        def register(function: Function) -> Function:
            self.register_callback(function, *instruments, timeout=timeout, max_age=max_age)
            return function

        return register

    def _fields(self, name: str, scope: Scope, temporality: Temporality, mode: str) -> dict[str, str]:
        """Return the fields of an observable instrument's family; ValueError for a bad scope or temporality."""
        for what, value, known in (("scope", scope, get_args(Scope)), ("temporality", temporality, _TEMPORALITIES)):
            if value not in known:
                msg = f"instrument {name!r}: {what} must be one of {', '.join(known)}, not {value!r}"
                raise ValueError(msg)
        return {"scope": scope, "temporality": temporality, "mode": mode}

    def _check_own(self, name: str, function: object, timeout: float, max_age: float | None) -> None:
        """Check a callback and its limits before anything is made: TypeError and ValueError."""
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
            # It replaces the callback of an equal instrument, because both would observe the same series.
            self._scope.provider.callbacks.add(own, instrument.token)


_TEMPORALITIES = get_args(Temporality)
