"""Translation of names and units of the Meter API to those of Prometheus. Pure functions.

Source: https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/. Where it leaves a choice,
this module follows the OpenTelemetry exporter for Prometheus.
"""

from __future__ import annotations

import functools
import re

__all__ = ["check_name", "exposed_name", "label_name", "unit_words", "utf8_label", "utf8_name"]

MAX_NAME = 255

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.\-/]*\Z")
_OTHER = re.compile(r"[^A-Za-z0-9]+")

_UNITS = {
    "d": "days",
    "h": "hours",
    "min": "minutes",
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
    "By": "bytes",
    "KiBy": "kibibytes",
    "MiBy": "mebibytes",
    "GiBy": "gibibytes",
    "TiBy": "tebibytes",
    "KBy": "kilobytes",
    "MBy": "megabytes",
    "GBy": "gigabytes",
    "TBy": "terabytes",
    "m": "meters",
    "V": "volts",
    "A": "amperes",
    "J": "joules",
    "W": "watts",
    "g": "grams",
    "Cel": "celsius",
    "Hz": "hertz",
    "%": "percent",
    "1": "",
}
_PER = {"s": "second", "m": "minute", "h": "hour", "d": "day", "w": "week", "mo": "month", "y": "year"}


def check_name(name: object) -> str:
    """Return ``name`` if an instrument can have it: a letter, then letters, digits and ``_.-/``, at most 255 in all.

    TypeError unless it is a str; ValueError if it is invalid.
    """
    if not isinstance(name, str):
        msg = f"an instrument's name must be a str, not {name!r}"
        raise TypeError(msg)
    if not _NAME.match(name) or len(name) > MAX_NAME:
        msg = (
            f"invalid instrument name {name!r}: use a letter first, then letters, digits, '_', '.', '-' and '/',"
            f" at most {MAX_NAME} characters"
        )
        raise ValueError(msg)
    return name


def unit_words(unit: str, *, is_gauge: bool) -> str:
    """Return a UCUM unit in the words of Prometheus: ``By/s`` is ``bytes_per_second``.

    ``1`` becomes ``ratio`` for a gauge, else nothing. A part in braces is a remark, and its side of the fraction is
    dropped. An unknown unit is kept as it is. TypeError unless ``unit`` is a str.
    """
    if not isinstance(unit, str):
        msg = f"a unit must be a str, such as 's' or 'By', not {unit!r}"
        raise TypeError(msg)
    unit = unit.strip()
    if unit == "1" and is_gauge:
        return "ratio"
    above, slash, below = unit.partition("/")
    words = _words(above, _UNITS)
    per = _words(below, _PER) if slash else ""
    return "_".join(part for part in (words, per and f"per_{per}") if part)


def _words(unit: str, known: dict[str, str]) -> str:
    if "{" in unit or "}" in unit:
        return ""
    unit = unit.strip()
    return known[unit] if unit in known else _join(unit)


def exposed_name(kind: str, original: str, unit: str) -> str:
    """Return an instrument's name in Prometheus, without the ``_total`` of a counter; ``unit`` in words."""
    name = _join(original)
    if kind == "counter":
        name = name.removesuffix("_total")
    return _with_unit(name, unit)


def utf8_name(kind: str, original: str, unit: str) -> str:
    """Return the same for a scraper that accepts names in UTF-8: the instrument's own name and its unit."""
    return _with_unit(original.removesuffix("_total") if kind == "counter" else original, unit)


def _with_unit(name: str, unit: str) -> str:
    """Return ``name`` with the unit's words behind it, unless it contains them."""
    return name if not unit or f"_{unit}_" in f"_{_join(name)}_" else f"{name}_{unit}"


def _join(text: str) -> str:
    """Join the runs of letters and digits in ``text`` by ``_``."""
    return "_".join(part for part in _OTHER.split(text) if part)


def utf8_label(attribute: str) -> str:
    """Return the label name in UTF-8 of an attribute: unchanged, but a name that starts with ``__`` gets ``key``."""
    return f"key{attribute}" if attribute.startswith("__") else attribute


@functools.lru_cache(maxsize=4096)
def label_name(attribute: str) -> str:
    """Return the label name of an attribute: each character but letters, digits and ``_`` becomes ``_``.

    A name that starts with a digit gets ``key_`` before it. A name that starts with ``__`` gets ``key`` before it,
    because Prometheus reserves such names.
    """
    name = re.sub(r"[^A-Za-z0-9_]", "_", attribute)
    if name[:1].isdigit():
        return f"key_{name}"
    return f"key{name}" if name.startswith("__") else name
