"""Exact metrics of prefork servers: every process counts into memory-mapped files, one collector merges them."""

from mpmetrics.errors import (
    ConflictError,
    FormatError,
    LockTimeoutError,
    MpmetricsError,
    StoreError,
    StoreUnavailableError,
)
from mpmetrics.exposition.app import make_asgi_app, make_wsgi_app
from mpmetrics.exposition.collector import Collector
from mpmetrics.exposition.server_thread import start_http_server
from mpmetrics.instruments import Counter, Enum, Gauge, Histogram, Info, Summary, UpDownCounter
from mpmetrics.provider import Provider, get_provider, set_provider

__all__ = [
    "Collector",
    "ConflictError",
    "Counter",
    "Enum",
    "FormatError",
    "Gauge",
    "Histogram",
    "Info",
    "LockTimeoutError",
    "MpmetricsError",
    "Provider",
    "StoreError",
    "StoreUnavailableError",
    "Summary",
    "UpDownCounter",
    "get_provider",
    "make_asgi_app",
    "make_wsgi_app",
    "set_provider",
    "start_http_server",
]
