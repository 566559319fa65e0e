"""Chooses format and coding by the headers ``Accept`` and ``Accept-Encoding`` (RFC 9110, 12.5)."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "OPENMETRICS",
    "OPENMETRICS_UTF8",
    "TEXT_0_0_4",
    "TEXT_1_0_0",
    "TEXT_UTF8",
    "Format",
    "accepts_gzip",
    "choose",
]


@dataclass(frozen=True)
class Format:
    """A text format, its content type, and whether its names may be in UTF-8."""

    name: str
    content_type: str
    utf8: bool = False


TEXT_0_0_4 = Format("text", "text/plain; version=0.0.4; charset=utf-8")
TEXT_1_0_0 = Format("text", "text/plain; version=1.0.0; charset=utf-8; escaping=underscores")
OPENMETRICS = Format("openmetrics", "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores")
TEXT_UTF8 = Format("text", "text/plain; version=1.0.0; charset=utf-8; escaping=allow-utf-8", utf8=True)
OPENMETRICS_UTF8 = Format(
    "openmetrics", "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8", utf8=True
)

_IN_UTF8 = {TEXT_1_0_0: TEXT_UTF8, OPENMETRICS: OPENMETRICS_UTF8}

_OFFERED = {
    ("application/openmetrics-text", "1.0.0"): OPENMETRICS,
    ("application/openmetrics-text", "0.0.1"): OPENMETRICS,
    ("application/openmetrics-text", ""): OPENMETRICS,
    ("text/plain", "1.0.0"): TEXT_1_0_0,
    ("text/plain", "0.0.4"): TEXT_0_0_4,
    ("text/plain", ""): TEXT_0_0_4,
    ("text/*", ""): TEXT_0_0_4,
    ("*/*", ""): TEXT_0_0_4,
}

_MOST_ITEMS = 64
"""Items of a header that are read; later ones are ignored. No scraper sends as many."""


def choose(accept: str | None) -> Format:
    """Return the format that ``accept`` weights highest, the first of equals; text 0.0.4 if it names none of ours."""
    best, weight = TEXT_0_0_4, 0.0
    for media, parameters in _items(accept):
        offered = _OFFERED.get((media, parameters.get("version", "")))
        quality = _quality(parameters)
        if offered is not None and quality > weight:
            best, weight = offered, quality
            if parameters.get("version") == "1.0.0" and parameters.get("escaping") == "allow-utf-8":
                best = _IN_UTF8.get(offered, offered)
    return best


def accepts_gzip(accept_encoding: str | None) -> bool:
    """Return whether gzip is accepted."""
    codings = {name: _quality(parameters) for name, parameters in _items(accept_encoding)}
    return codings.get("gzip", codings.get("*", 0.0)) > 0.0


def _items(header: str | None) -> list[tuple[str, dict[str, str]]]:
    items = []
    for item in (header or "").split(",", _MOST_ITEMS)[:_MOST_ITEMS]:
        name, *parameters = item.split(";")
        pairs = (parameter.partition("=") for parameter in parameters)
        items.append((name.strip().lower(), {key.strip().lower(): value.strip().strip('"') for key, _, value in pairs}))
    return items


def _quality(parameters: dict[str, str]) -> float:
    try:
        quality = float(parameters.get("q", "1"))
    except ValueError:
        return 0.0
    return quality if 0.0 <= quality <= 1.0 else 0.0
