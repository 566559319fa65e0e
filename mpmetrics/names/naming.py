"""Names of metrics and labels, by the rules of the Prometheus data model and OpenMetrics 1.0.

Source: https://prometheus.io/docs/concepts/data_model/.
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
"""Names that start like this are the collector's figures about itself."""

OVERFLOW_LABEL = "otel_metric_overflow"
"""The label of the series that takes what is past a metric's cap; OpenTelemetry's name for it."""

_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*\Z")
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def full_name(kind: str, name: str, namespace: str, subsystem: str, unit: str) -> str:
    """Join the parts of a metric's name; a counter goes without ``_total``. ValueError when it is no valid name."""
    if not isinstance(name, str):
        msg = f"a metric's name is a str, not {name!r}"
        raise TypeError(msg)
    whole = "_".join(part for part in (namespace, subsystem, name) if part)
    if kind == "counter":
        whole = whole.removesuffix("_total")
    if unit and kind in ("info", "enum"):
        msg = f"metric {whole!r} of kind {kind} cannot have a unit, {unit!r} was given"
        raise ValueError(msg)
    if unit and not whole.endswith(f"_{unit}"):
        whole = f"{whole}_{unit}"
    return check_metric_name(whole if name else "")


def check_metric_name(name: str) -> str:
    """``name`` itself; ValueError when no metric can be called like that."""
    if not _METRIC.match(name):
        msg = f"invalid metric name {name!r}: letters, digits, '_' and ':' only, and not a digit first"
        raise ValueError(msg)
    return name


def check_label_names(metric: str, names: Iterable[str], reserved: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The label names as a tuple; ValueError that names the metric and the label when one is not allowed."""
    if isinstance(names, str):
        msg = f"metric {metric!r}: label names are a sequence of str, not the str {names!r}; write [{names!r}]"
        raise TypeError(msg)
    labels = tuple(names)
    for label in labels:
        if not isinstance(label, str) or not _LABEL.match(label):
            msg = (
                f"metric {metric!r}: invalid label name {label!r}: letters, digits and '_' only, and not a digit first"
            )
            raise ValueError(msg)
        if label.startswith("__") or label == OVERFLOW_LABEL or label in reserved:
            msg = f"metric {metric!r}: label name {label!r} is reserved"
            raise ValueError(msg)
    if len(set(labels)) != len(labels):
        msg = f"metric {metric!r}: label names {labels} are not all different"
        raise ValueError(msg)
    return labels


def text(value: object) -> str:
    """``value`` as a label value: its ``str``, with U+FFFD for surrogates, which UTF-8 cannot carry.

    A value that is a str already, such as a member of an enumeration of strings, counts as the text that it holds: it
    is equal to that text, and equal values have to be the same series.
    """
    label = str.__str__(value) if isinstance(value, str) else str(value)
    try:
        label.encode()
    except UnicodeEncodeError:
        return label.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return label


def check_text(name: str | None, what: str) -> None:
    """ValueError unless UTF-8 can carry ``name``, which is ``what``: a surrogate is half of a character."""
    try:
        (name or "").encode()
    except UnicodeEncodeError as error:
        msg = f"{what} has to be text that UTF-8 can carry, not {name!r}"
        raise ValueError(msg) from error


def declared_at() -> str:
    """File and line of the nearest caller outside this package."""
    frame = sys._getframe(1)  # noqa: SLF001 (the documented way to a caller's frame)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return text(f"{frame.f_code.co_filename}:{frame.f_lineno}")
