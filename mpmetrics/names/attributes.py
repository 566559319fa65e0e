"""Attributes of the Meter API: names and values given with each measurement, and the text that a series keeps of them.

The text follows the OpenTelemetry specification, https://opentelemetry.io/docs/specs/otel/common/, "representation of
non-string values". Names are kept as they are; the exporter's options decide later how the labels are called.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mpmetrics.names.naming import OVERFLOW_LABEL, text
from mpmetrics.names.translation import label_name

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["SCOPE_NAME", "SCOPE_VERSION", "Attributes", "attribute_text", "check_attributes", "pairs_key"]

Attributes = Mapping[str, object]
"""Names to values: bool, int, float, str, sequences of them, or any other object, of which ``str`` is taken."""

SCOPE_NAME = "otel_scope_name"
SCOPE_VERSION = "otel_scope_version"
_RESERVED = frozenset({SCOPE_NAME, SCOPE_VERSION, OVERFLOW_LABEL})


def attribute_text(value: object) -> str:
    """Return an attribute's value as a label value: ``true``, ``1.5``, ``["a", "b"]``."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview)):
        return text(json.dumps([_plain(item) for item in value], ensure_ascii=False))
    return text(value)


def _plain(value: object) -> object:
    """Return an item of a sequence as JSON can hold it."""
    return value if value is None or isinstance(value, (str, bool, int, float)) else str(value)


def check_attributes(attributes: Attributes | None, what: object, reserved: Collection[str] = ()) -> dict[str, str]:
    """Return the attributes with their values as text. ``what`` begins the messages.

    TypeError unless ``attributes`` is a mapping of str; ValueError for an empty name, and for a name whose label is
    ``reserved`` or set by mpmetrics itself.
    """
    if attributes is None:
        return {}
    if not isinstance(attributes, Mapping):
        msg = f"{what!r}: attributes must be a mapping of names to values, not {attributes!r}"
        raise TypeError(msg)
    checked = {}
    for name, value in attributes.items():
        if not isinstance(name, str):
            msg = f"{what!r}: an attribute's name must be a str, not {name!r}"
            raise TypeError(msg)
        if not name:
            msg = f"{what!r}: the attribute with the value {value!r} has an empty name; give it a name"
            raise ValueError(msg)
        plain = text(name)
        label = label_name(plain)
        if label in _RESERVED or label in reserved:
            msg = f"{what!r}: attribute {name!r} would be the label {label!r}, which is reserved; use another name"
            raise ValueError(msg)
        checked[plain] = attribute_text(value)
    return checked


def pairs_key(pairs: Mapping[str, str]) -> tuple[str, ...]:
    """Return the key of the series with these pairs, without empty values: Prometheus has no empty labels."""
    return tuple(part for name, value in sorted(pairs.items()) if value for part in (name, value))
