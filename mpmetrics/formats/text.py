"""The text formats: Prometheus text (0.0.4 and 1.0.0, the same for names like ours) and OpenMetrics 1.0.

Sources: https://prometheus.io/docs/instrumenting/exposition_formats/ and
https://prometheus.io/docs/specs/om/open_metrics_spec/.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from mpmetrics._cells import lines, number

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from mpmetrics._cells.text import Template
    from mpmetrics.collector.reading import Grid, Labels, Reading

__all__ = ["render_openmetrics", "render_text"]

_LEGACY = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
_LEGACY_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*\Z")
_TEXT_NAMES = {"counter": "_total", "info": "_info"}
_TEXT_TYPES = {"info": "gauge", "stateset": "gauge"}


def render_text(readings: Iterable[Reading], names: Collection[str] = ()) -> bytes:
    """Render Prometheus text, which has no creation times; with ``names``, only families or samples of these names."""
    parts: list[bytes] = []
    for reading in readings:
        name = _quoted(reading.name + ("" if reading.bare else _TEXT_NAMES.get(reading.type, "")))
        samples = _samples(reading, names, lambda suffix: suffix != "_created")
        if samples or not names or reading.name in names:
            comments = (
                f"# HELP {name} {_escape_help(reading.help)}\n"
                f"# TYPE {name} {_TEXT_TYPES.get(reading.type, reading.type)}\n"
            )
            parts.append(_encode(comments))
            parts.append(samples)
    return b"".join(parts)


def render_openmetrics(readings: Iterable[Reading], names: Collection[str] = ()) -> bytes:
    """Render OpenMetrics 1.0; with ``names``, only families or samples of these names."""
    parts: list[bytes] = []
    for reading in readings:
        samples = _samples(reading, names, _everything if _has_sum(reading) else _no_count)
        if samples or not names or reading.name in names:
            name = _quoted(reading.name)
            # OpenMetrics has no counters without the suffix; client_golang writes "unknown", too.
            kind = "unknown" if reading.bare else reading.type
            unit = f"# UNIT {name} {reading.unit}\n" if reading.unit else ""
            parts.append(_encode(f"# HELP {name} {_escape(reading.help)}\n# TYPE {name} {kind}\n{unit}"))
            parts.append(samples)
    parts.append(b"# EOF\n")
    return b"".join(parts)


def _has_sum(reading: Reading) -> bool:
    """False if observations may be negative: then there is no sum, and OpenMetrics has no count without a sum."""
    if reading.type != "histogram":
        return True
    if reading.grid is not None:
        return any(ending is not None and ending.suffix == "_sum" for ending in reading.grid.endings)
    return any(sample.suffix == "_sum" for sample in reading.samples)


def _samples(reading: Reading, names: Collection[str], wanted: Callable[[str], bool]) -> bytes:
    """Render the samples whose suffix is wanted and, if ``names`` are given, whose name or family is among them."""
    is_whole = not names or reading.name in names

    def shows(suffix: str) -> bool:
        return wanted(suffix) and (is_whole or reading.name + suffix in names)

    if reading.grid is not None:
        return _grid_lines(reading, reading.grid, shows)
    return _encode("".join(_sample_lines(reading, shows)))


def _grid_lines(reading: Reading, grid: Grid, shows: Callable[[str], bool]) -> bytes:
    """Render a grid. :func:`_quoted_series` gives the source of the two forms of a series."""
    name, rows = reading.name, grid.rows
    is_legacy = _LEGACY.match(name) is not None
    is_plain = is_legacy and not _may_be_quoted(reading)
    pairs = _pairs if is_plain else _quoted_pairs

    def around(suffix: str, label: tuple[str, str] | None = None) -> Template:
        before = f"{name}{suffix}{{" if is_legacy else f'{{"{_escape(name + suffix)}"'
        comma = "" if is_legacy else ","
        last = pairs((label,)) if label else ""
        alone = f"{before}{comma}{last}}} " if last else (f"{name}{suffix} " if is_legacy else f"{before}}} ")
        closing = f",{last}}} " if last else "} "
        return _encode(f"{before}{comma}"), _encode(closing), _encode(alone)

    arounds = tuple(around(*ending) if ending is not None and shows(ending.suffix) else None for ending in grid.endings)
    created = (around("_created"), rows.created) if grid.has_created and shows("_created") else None
    texts = rows.texts("plain", None) if is_plain else rows.texts("quoted", _quoted_text)
    return lines(arounds, texts, grid.values, grid.shown, created)


def _quoted_text(labels: Labels) -> bytes:
    return _encode(_quoted_pairs(labels))


def _sample_lines(reading: Reading, shows: Callable[[str], bool]) -> Iterable[str]:
    """Render single samples."""
    name = reading.name
    if not _LEGACY.match(name):
        write = _quoted_series
    elif _may_be_quoted(reading):
        write = _series_in_utf8
    else:
        write = _series
    for suffix, labels, value in reading.samples:
        if shows(suffix):
            yield f"{write(name + suffix, labels)} {number(value)}\n"


def _may_be_quoted(reading: Reading) -> bool:
    """Whether label names may need quotes: those of attributes and of infos may."""
    return bool(reading.original) or reading.type == "info"


def _quoted(name: str) -> str:
    """A name in a comment, in quotes if it is not a legacy name."""
    return name if _LEGACY.match(name) else f'"{_escape(name)}"'


def _quoted_series(name: str, labels: Labels) -> str:
    """A series with its name among its labels. Source: the escaping scheme of the formats' UTF-8 names."""
    comma = "," if labels else ""
    return f'{{"{_escape(name)}"{comma}{_quoted_pairs(labels)}}}'


def _series(name: str, labels: Labels) -> str:
    return f"{name}{{{_pairs(labels)}}}" if labels else name


def _series_in_utf8(name: str, labels: Labels) -> str:
    return f"{name}{{{_quoted_pairs(labels)}}}" if labels else name


def _pairs(labels: Labels) -> str:
    return ",".join([f'{name}="{_escape(value)}"' for name, value in labels])


def _quoted_pairs(labels: Labels) -> str:
    return ",".join([f'{_quoted_label(name)}="{_escape(value)}"' for name, value in labels])


def _everything(_: str) -> bool:
    return True


def _no_count(suffix: str) -> bool:
    return suffix != "_count"


@functools.lru_cache(maxsize=4096)
def _quoted_label(name: str) -> str:
    """A label's name, in quotes if it is not a legacy name."""
    return name if _LEGACY_LABEL.match(name) else f'"{_escape(name)}"'


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _escape_help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _encode(text: str) -> bytes:
    """Encode in UTF-8. Text that UTF-8 cannot encode is refused at its entry; should it get here, no scrape fails."""
    return text.encode("utf-8", "replace")
