"""The text formats: Prometheus text (0.0.4 and 1.0.0, the same for names like ours) and OpenMetrics 1.0.

Sources: https://prometheus.io/docs/instrumenting/exposition_formats/ and
https://prometheus.io/docs/specs/om/open_metrics_spec/.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from mpmetrics.collector.reading import Labels, Reading

__all__ = ["number", "render_openmetrics", "render_text"]

_TEXT_NAMES = {"counter": "_total", "info": "_info"}
_TEXT_TYPES = {"info": "gauge", "stateset": "gauge"}


def number(value: float) -> str:
    """A value as both formats write it: the shortest decimal that reads back to the same double."""
    if math.isfinite(value):
        return repr(value)
    return "NaN" if value != value else ("+Inf" if value > 0 else "-Inf")  # noqa: PLR0124 (only NaN differs from itself)


def render_text(readings: Iterable[Reading], names: Collection[str] = ()) -> bytes:
    """Prometheus text; with ``names``, only families or samples of these names. Creation times have no place in it."""
    lines: list[str] = []
    for reading in readings:
        name = reading.name + _TEXT_NAMES.get(reading.type, "")
        samples = _sample_lines(reading, names, lambda suffix: suffix != "_created")
        if samples or not names or reading.name in names:
            lines.append(f"# HELP {name} {_escape_help(reading.help)}\n")
            lines.append(f"# TYPE {name} {_TEXT_TYPES.get(reading.type, reading.type)}\n")
            lines += samples
    return "".join(lines).encode()


def render_openmetrics(readings: Iterable[Reading], names: Collection[str] = ()) -> bytes:
    """OpenMetrics 1.0; with ``names``, only families or samples of these names."""
    lines: list[str] = []
    for reading in readings:
        # Observations that may be negative have no sum, and OpenMetrics has no count without one.
        has_sum = reading.type != "histogram" or any(sample.suffix == "_sum" for sample in reading.samples)
        samples = _sample_lines(reading, names, _everything if has_sum else _no_count)
        if samples or not names or reading.name in names:
            lines.append(f"# HELP {reading.name} {_escape(reading.help)}\n")
            lines.append(f"# TYPE {reading.name} {reading.type}\n")
            if reading.unit:
                lines.append(f"# UNIT {reading.name} {reading.unit}\n")
            lines += samples
    lines.append("# EOF\n")
    return "".join(lines).encode()


def _sample_lines(reading: Reading, names: Collection[str], wanted: Callable[[str], bool]) -> list[str]:
    whole = not names or reading.name in names
    name = reading.name
    return [
        f"{name}{suffix}{_labels(labels)} {number(value)}\n"
        for suffix, labels, value in reading.samples
        if wanted(suffix) and (whole or name + suffix in names)
    ]


def _everything(_: str) -> bool:
    return True


def _no_count(suffix: str) -> bool:
    return suffix != "_count"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join([f'{name}="{_escape(value)}"' for name, value in labels]) + "}"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _escape_help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")
