"""Exact metrics of prefork servers: every process counts into memory-mapped files, one collector merges them."""

from mpmetrics.callbacks.observer import InstrumentObserver, MeterObserver
from mpmetrics.collector.exporter_options import ExporterOptions
from mpmetrics.endpoint.app import make_asgi_app, make_wsgi_app
from mpmetrics.endpoint.collector import Collector
from mpmetrics.endpoint.thread import start_http_server
from mpmetrics.errors import (
    ConflictError,
    FormatError,
    LockTimeoutError,
    MpmetricsError,
    SecurityError,
    ShutdownError,
    StoreError,
    StoreUnavailableError,
)
from mpmetrics.http.security.settings import Security
from mpmetrics.instruments import Counter, Enum, Gauge, Histogram, Info, Summary, UpDownCounter
from mpmetrics.meter import Meter
from mpmetrics.provider import Provider, get_meter, get_provider, set_provider

__all__ = [
    "Collector",
    "ConflictError",
    "Counter",
    "Enum",
    "ExporterOptions",
    "FormatError",
    "Gauge",
    "Histogram",
    "Info",
    "InstrumentObserver",
    "LockTimeoutError",
    "Meter",
    "MeterObserver",
    "MpmetricsError",
    "Provider",
    "Security",
    "SecurityError",
    "ShutdownError",
    "StoreError",
    "StoreUnavailableError",
    "Summary",
    "UpDownCounter",
    "get_meter",
    "get_provider",
    "make_asgi_app",
    "make_wsgi_app",
    "set_provider",
    "start_http_server",
]
