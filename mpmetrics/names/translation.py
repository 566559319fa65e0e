"""Names and units of the Meter API as Prometheus has them.

Source: https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/, and for what it leaves open
the translation of the OpenTelemetry exporter for Prometheus.
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
    """``name`` as that of an instrument: a letter, then letters, digits and ``_.-/``, at most 255 characters.

    TypeError unless it is a str; ValueError when it is no such name.
    """
    if not isinstance(name, str):
        msg = f"an instrument's name is a str, not {name!r}"
        raise TypeError(msg)
    if not _NAME.match(name) or len(name) > MAX_NAME:
        msg = (
            f"invalid instrument name {name!r}: a letter first, then letters, digits, '_', '.', '-' and '/',"
            f" at most {MAX_NAME} characters"
        )
        raise ValueError(msg)
    return name


def unit_words(unit: str, *, is_gauge: bool) -> str:
    """A UCUM unit in the words that Prometheus uses: ``By/s`` is ``bytes_per_second``.

    ``1`` says nothing, but of a gauge that it is a ratio. What stands in braces is a remark, and dropped with its side
    of the fraction. Units that are not known are taken as they are. TypeError unless ``unit`` is a str.
    """
    if not isinstance(unit, str):
        msg = f"a unit is a str, such as 's' or 'By', not {unit!r}"
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
    """The name in Prometheus, a counter's without ``_total``, of an instrument with these unit words."""
    name = _join(original)
    if kind == "counter":
        name = name.removesuffix("_total")
    return _with_unit(name, unit)


def utf8_name(kind: str, original: str, unit: str) -> str:
    """The same for a scraper that takes names in UTF-8: the instrument's own name, and the suffixes."""
    return _with_unit(original.removesuffix("_total") if kind == "counter" else original, unit)


def _with_unit(name: str, unit: str) -> str:
    """``name`` and the unit's words, unless these stand in it already."""
    return name if not unit or f"_{unit}_" in f"_{_join(name)}_" else f"{name}_{unit}"


def _join(text: str) -> str:
    """The runs of letters and digits in ``text``, joined by ``_``."""
    return "_".join(part for part in _OTHER.split(text) if part)


def utf8_label(attribute: str) -> str:
    """An attribute's name as that of a label in UTF-8: as it is, but for those that Prometheus keeps to itself."""
    return f"key{attribute}" if attribute.startswith("__") else attribute


@functools.lru_cache(maxsize=4096)
def label_name(attribute: str) -> str:
    """An attribute's name as that of a label: other characters than letters, digits and ``_`` become ``_``.

    A digit at the start gets ``key_`` before it. Names that start with ``__`` are Prometheus' own, so that these get
    ``key`` before them.
    """
    name = re.sub(r"[^A-Za-z0-9_]", "_", attribute)
    if name[:1].isdigit():
        return f"key_{name}"
    return f"key{name}" if name.startswith("__") else name
