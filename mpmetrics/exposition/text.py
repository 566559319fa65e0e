"""The text formats: Prometheus text (0.0.4 and 1.0.0, the same for names like ours) and OpenMetrics 1.0.

Sources: https://prometheus.io/docs/instrumenting/exposition_formats/ and
https://prometheus.io/docs/specs/om/open_metrics_spec/.
"""

from __future__ import annotations

import functools
import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from mpmetrics.collector.reading import Labels, Reading

__all__ = ["number", "render_openmetrics", "render_text"]

_LEGACY = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
_LEGACY_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*\Z")
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
        name = _quoted(reading.name + ("" if reading.bare else _TEXT_NAMES.get(reading.type, "")))
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
            name = _quoted(reading.name)
            lines.append(f"# HELP {name} {_escape(reading.help)}\n")
            # A counter without its suffix cannot be one here; client_golang writes the same.
            lines.append(f"# TYPE {name} {'unknown' if reading.bare else reading.type}\n")
            if reading.unit:
                lines.append(f"# UNIT {name} {reading.unit}\n")
            lines += samples
    lines.append("# EOF\n")
    return "".join(lines).encode()


def _sample_lines(reading: Reading, names: Collection[str], wanted: Callable[[str], bool]) -> list[str]:
    whole = not names or reading.name in names
    name = reading.name
    if not _LEGACY.match(name):
        return [
            f"{_quoted_series(name + suffix, labels)} {number(value)}\n"
            for suffix, labels, value in reading.samples
            if wanted(suffix) and (whole or name + suffix in names)
        ]
    # Only attributes, and what an info says, may be called what a label could not be called before.
    write = _labels_in_utf8 if reading.original or reading.type == "info" else _labels
    return [
        f"{name}{suffix}{write(labels)} {number(value)}\n"
        for suffix, labels, value in reading.samples
        if wanted(suffix) and (whole or name + suffix in names)
    ]


def _quoted(name: str) -> str:
    """A name as it stands in a comment: in quotes when it is none of those that Prometheus always took."""
    return name if _LEGACY.match(name) else f'"{_escape(name)}"'


def _quoted_series(name: str, labels: Labels) -> str:
    """A series whose name goes where its labels stand. Source: the escaping scheme of the formats' UTF-8 names."""
    pairs = [f'{_quoted_label(label)}="{_escape(value)}"' for label, value in labels]
    return "{" + ",".join([f'"{_escape(name)}"', *pairs]) + "}"


def _everything(_: str) -> bool:
    return True


def _no_count(suffix: str) -> bool:
    return suffix != "_count"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join([f'{name}="{_escape(value)}"' for name, value in labels]) + "}"


def _labels_in_utf8(labels: Labels) -> str:
    return _labels(tuple((_quoted_label(name), value) for name, value in labels))


@functools.lru_cache(maxsize=4096)
def _quoted_label(name: str) -> str:
    """A label's name, in quotes when it is none of those that Prometheus always took."""
    return name if _LEGACY_LABEL.match(name) else f'"{_escape(name)}"'


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _escape_help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")
