"""Checks of names of metrics and labels, by the rules of the Prometheus data model and OpenMetrics 1.0.

Source: https://prometheus.io/docs/concepts/data_model/. No input or output.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "OVERFLOW_LABEL",
    "RESERVED_PREFIX",
    "check_label_names",
    "check_metric_name",
    "check_text",
    "declared_at",
    "full_name",
    "text",
]

RESERVED_PREFIX = "mpmetrics_"
"""Names that start like this are reserved for self-metrics."""

OVERFLOW_LABEL = "otel_metric_overflow"
"""The label of the series that counts what is past a metric's cap. The name is OpenTelemetry's."""

_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*\Z")
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def full_name(kind: str, name: str, namespace: str, subsystem: str, unit: str) -> str:
    """Join the parts of a metric's name, without the ``_total`` of a counter. ValueError if the name is invalid."""
    if not isinstance(name, str):
        msg = f"a metric's name must be a str, not {name!r}"
        raise TypeError(msg)
    whole = "_".join(part for part in (namespace, subsystem, name) if part)
    if kind == "counter":
        whole = whole.removesuffix("_total")
    if unit and kind in ("info", "enum"):
        msg = f"metric {whole!r}: an {kind} metric cannot have a unit, but {unit!r} was given"
        raise ValueError(msg)
    if unit and not whole.endswith(f"_{unit}"):
        whole = f"{whole}_{unit}"
    return check_metric_name(whole if name else "")


def check_metric_name(name: str) -> str:
    """Return ``name``; ValueError if it is no valid name of a metric."""
    if not _METRIC.match(name):
        msg = f"invalid metric name {name!r}: use letters, digits, '_' and ':' only, and no digit first"
        raise ValueError(msg)
    return name


def check_label_names(metric: str, names: Iterable[str], reserved: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the label names as a tuple; ValueError if one is invalid, reserved or given twice."""
    if isinstance(names, str):
        msg = f"metric {metric!r}: label names must be a sequence of str, not the str {names!r}; write [{names!r}]"
        raise TypeError(msg)
    labels = tuple(names)
    for label in labels:
        if not isinstance(label, str) or not _LABEL.match(label):
            msg = (
                f"metric {metric!r}: invalid label name {label!r}: use letters, digits and '_' only, and no digit first"
            )
            raise ValueError(msg)
        if label.startswith("__") or label == OVERFLOW_LABEL or label in reserved:
            msg = f"metric {metric!r}: label name {label!r} is reserved; use another one"
            raise ValueError(msg)
    if len(set(labels)) != len(labels):
        msg = f"metric {metric!r}: label names {labels} are not all different"
        raise ValueError(msg)
    return labels


def text(value: object) -> str:
    """Return ``value`` as a label value: its ``str``, with U+FFFD for surrogates, which UTF-8 cannot encode.

    A subclass of str, such as a member of an enumeration of strings, counts as the text that it holds: it is equal to
    that text, and equal values must be the same series.
    """
    label = str.__str__(value) if isinstance(value, str) else str(value)
    try:
        label.encode()
    except UnicodeEncodeError:
        return label.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return label


def check_text(name: str | None, what: str) -> None:
    """Raise ValueError unless UTF-8 can encode ``name``: a surrogate is half of a character. ``what`` names it."""
    try:
        (name or "").encode()
    except UnicodeEncodeError as error:
        msg = f"{what} must be text that UTF-8 can encode, not {name!r}"
        raise ValueError(msg) from error


def declared_at() -> str:
    """Return file and line of the nearest caller outside this package."""
    frame = sys._getframe(1)  # noqa: SLF001 (the documented way to a caller's frame)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return text(f"{frame.f_code.co_filename}:{frame.f_lineno}")
