"""Translation of instrument names and units to Prometheus, by OpenTelemetry's compatibility specification."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpmetrics.names.translation import check_name, exposed_name, label_name, unit_words, utf8_name

UNITS = {
    "": "",
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
    "m/s": "meters_per_second",
    "By/m": "bytes_per_minute",
    "By/h": "bytes_per_hour",
    "g/d": "grams_per_day",
    "J/w": "joules_per_week",
    "A/mo": "amperes_per_month",
    "1/y": "per_year",
    "{request}": "",
    "{request}/s": "per_second",
    "By/{block}": "bytes",
    "widgets": "widgets",
    "mol.kg": "mol_kg",
    "x/parsec": "x_per_parsec",
    " s ": "seconds",
}


@pytest.mark.parametrize(("unit", "words"), UNITS.items())
def test_units(unit: str, words: str) -> None:
    """A known unit becomes its words, an unknown one stays; the unit 1 of a gauge becomes ratio."""
    assert words == unit_words(unit, is_gauge=False)
    assert ("ratio" if unit == "1" else words) == unit_words(unit, is_gauge=True)


NAMES = [
    ("counter", "shop.orders", "", "shop_orders", "shop.orders"),
    ("counter", "shop.orders_total", "", "shop_orders", "shop.orders"),
    ("gauge", "shop.orders_total", "", "shop_orders_total", "shop.orders_total"),
    ("counter", "io.read-rate/disk", "bytes", "io_read_rate_disk_bytes", "io.read-rate/disk_bytes"),
    ("histogram", "request.seconds", "seconds", "request_seconds", "request.seconds"),
    ("gauge", "seconds.since.start", "seconds", "seconds_since_start", "seconds.since.start"),
    ("gauge", "milliseconds", "seconds", "milliseconds_seconds", "milliseconds_seconds"),
    ("gauge", "flow.meters_per_second", "meters_per_second", "flow_meters_per_second", "flow.meters_per_second"),
    ("gauge", "meters", "meters_per_second", "meters_meters_per_second", "meters_meters_per_second"),
    ("gauge", "a..b__c.", "", "a_b_c", "a..b__c."),
    ("counter", "bytes_total", "bytes", "bytes", "bytes"),
]


@pytest.mark.parametrize(("kind", "original", "unit", "exposed", "utf8"), NAMES)
def test_names(kind: str, original: str, unit: str, exposed: str, utf8: str) -> None:
    """Runs of other characters become one ``_``, or stay in UTF-8; a unit that the name contains is not repeated."""
    assert (exposed, utf8) == (exposed_name(kind, original, unit), utf8_name(kind, original, unit))


def test_allowed_names() -> None:
    """Accepted are a letter, then letters, digits and ``_.-/``, at most 255 characters; all else is refused."""
    for name in ("a", "A1_.-/z", "a" * 255):
        assert name == check_name(name)
    for bad in ("", "1a", "_a", ".a", "a b", "é", "a:b", "a\n", "a" * 256, "a{}"):
        with pytest.raises(ValueError, match="invalid instrument name " + re.escape(repr(bad))):
            check_name(bad)
    for wrong in (None, 5, b"a"):
        with pytest.raises(TypeError, match="name must be a str"):
            check_name(wrong)
    with pytest.raises(TypeError, match="a unit must be a str"):
        unit_words(5, is_gauge=False)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("attribute", "label"),
    [
        ("a", "a"),
        ("http.status-code", "http_status_code"),
        ("1st", "key_1st"),
        ("_a", "_a"),
        ("__name__", "key__name__"),
        ("é", "_"),
        ("a:b", "a_b"),
    ],
)
def test_label_names(attribute: str, label: str) -> None:
    """Other characters become ``_``; names that start with a digit or with ``__`` get ``key`` before them."""
    assert label == label_name(attribute)


@given(st.from_regex(r"[A-Za-z][A-Za-z0-9_.\-/]{0,30}", fullmatch=True), st.text(max_size=8))
def test_always_valid(name: str, unit: str) -> None:
    """Any allowed name with any unit becomes a name that is valid in every version of Prometheus."""
    for kind in ("counter", "gauge", "histogram"):
        words = unit_words(unit, is_gauge=kind == "gauge")

        assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_]*", exposed_name(kind, name, words))


@given(st.text(min_size=1, max_size=10))
def test_labels_always_valid(name: str) -> None:
    """Any attribute's name becomes a label that is valid in every version of Prometheus, and not reserved."""
    label = label_name(name)

    assert re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", label)
    assert not label.startswith("__")
