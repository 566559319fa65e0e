"""Family: the declaration of a metric, its checks, and its bytes in a FAMILY record. No input or output."""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from mpmetrics._cells import LAYOUTS, RECORD
from mpmetrics._cells.offsets import MAX_BODY, WORD
from mpmetrics.names.naming import check_label_names, check_metric_name
from mpmetrics.names.translation import check_name

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MAX_WIDTH", "Family", "Key"]

Key = tuple[str, ...] | None
"""Label values of a series, in the order of its family's label names; None is the family's overflow series."""

_LIVE = ("all", "min", "max", "sum", "mostrecent")
_MODES: dict[str, frozenset[str]] = {
    "counter": frozenset({""}),
    "updowncounter": frozenset({"sum", "livesum"}),
    "gauge": frozenset(_LIVE) | frozenset(f"live{mode}" for mode in _LIVE),
    "histogram": frozenset({""}),
    "summary": frozenset({""}),
    "info": frozenset({""}),
    "enum": frozenset({""}),
    "sketch": frozenset(LAYOUTS),
}
_KIND_OF_ROLE = {
    "counter": "counter",
    "decrease": "counter",
    "meter": "counter",
    "gauge": "gauge",
    "healthcheck": "gauge",
    "histogram": "sketch",
    "timer": "sketch",
}
_SCOPES = frozenset({"", "host", "worker"})
_TEMPORALITIES = frozenset({"", "cumulative", "delta", "observed"})
_ROLE_NAME = re.compile(r"registry/[^/]+/[^/]*/", re.DOTALL)
_TEXTS = ("name", "kind", "help", "unit", "mode", "original", "scope", "temporality", "role", "origin")
MAX_WIDTH = 1 << 17
"""Most words that a series may have."""

_RECENT = 4
"""Words of a value with its time, in two copies."""

_COUNTS = struct.Struct("=III")

_SUFFIXES = {
    "counter": ("", "_total", "_created"),
    "histogram": ("", "_bucket", "_count", "_sum", "_created"),
    "summary": ("", "_count", "_sum", "_created"),
    "info": ("", "_info"),
}


@dataclass(frozen=True)
class Family:
    """The declaration of a metric.

    ``kind`` is counter, updowncounter, gauge, histogram, summary, info, enum or sketch. ``mode`` is how a gauge or an
    up-down counter merges over processes, or the layout of a sketch. ``bounds`` are the upper bounds of a histogram's
    buckets, the last one infinite. ``states`` are an enum's. ``original`` is the name in the Meter API, empty for other
    metrics. ``scope``, host or worker, is where the callbacks of an observable metric run; ``temporality``, cumulative
    or delta, is what they observe, or "observed" for a registry's gauge with a function.

    ``role`` is empty except for the metrics of a registry: counter, gauge, meter, histogram, timer, healthcheck, or
    decrease, which holds what a counter went down by. Such a family is named ``registry/role/registry's name/name``,
    and only a driver shows it.

    ``origin`` is where it was declared, for messages. ``help`` and ``origin`` do not count when families are compared.
    """

    name: str
    kind: str
    help: str = field(compare=False)
    unit: str = ""
    labels: tuple[str, ...] = ()
    mode: str = ""
    bounds: tuple[float, ...] = ()
    states: tuple[str, ...] = ()
    original: str = ""
    scope: str = ""
    temporality: str = ""
    role: str = ""
    origin: str = field(default="", compare=False)

    @property
    def width(self) -> int:
        """How many words one series has."""
        if self.kind in ("histogram", "summary"):
            return 2 + max(1, len(self.bounds))
        if self.kind in ("info", "enum") or self.mode in ("mostrecent", "livemostrecent"):
            return _RECENT
        if self.kind == "sketch":
            return 2 * RECORD + LAYOUTS[self.mode].size
        return 1

    @property
    def retired_width(self) -> int:
        """How many words one series has in the retired file; 0 if they differ from series to series."""
        if self.kind in ("histogram", "summary"):
            return self.width
        if self.kind == "sketch":
            return self.width - RECORD
        if self.width == _RECENT or self.mode.startswith("live"):
            return self.width
        return {"all": 0, "min": 1, "max": 1}.get(self.mode, 2)

    @property
    def is_open(self) -> bool:
        """True if a key continues, behind the values of ``labels``, with names and values of further labels."""
        return self.kind == "info" or bool(self.original or self.role)

    def pairs(self, key: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
        """Return the label names and values of the series ``key``."""
        if not self.is_open:
            return tuple(zip(self.labels, key, strict=True))
        size = len(self.labels)
        more = key[size:]
        return (*zip(self.labels, key, strict=False), *zip(more[::2], more[1::2], strict=True))

    def key(self, pairs: Sequence[tuple[str, str]]) -> tuple[str, ...]:
        """Return the key of the series with these labels; a label that is not given has an empty value."""
        values = dict(pairs)
        fixed = [values.pop(name, "") for name in self.labels]
        rest = [text for pair in sorted(values.items()) for text in pair] if self.is_open else []
        return (*fixed, *rest)

    @property
    def sample_names(self) -> frozenset[str]:
        """Every name of a sample that the exposition of this family uses."""
        return frozenset(self.name + suffix for suffix in _SUFFIXES.get(self.kind, ("",)))

    @property
    def shape(self) -> tuple[object, ...]:
        """Two families of one name are shown together if their shapes are equal."""
        particulars = (self.mode, self.bounds, self.states)
        return (self.kind, *particulars, self.original, self.scope, self.temporality, self.role)

    def pack(self) -> bytes:
        """Return the body of a FAMILY record; ValueError if it is too long for a record.

        Three u32: how many labels, states and bounds. A u32 for the length of each text. The texts in UTF-8. The bounds
        as doubles.
        """
        texts = [text.encode() for text in (*(getattr(self, name) for name in _TEXTS), *self.labels, *self.states)]
        counts = _COUNTS.pack(len(self.labels), len(self.states), len(self.bounds))
        lengths = struct.pack(f"={len(texts)}I", *map(len, texts))
        packed = b"".join((counts, lengths, *texts, struct.pack(f"={len(self.bounds)}d", *self.bounds)))
        if len(packed) > MAX_BODY - 2 * WORD:
            msg = f"metric {self.name!r}: help, labels and buckets take {len(packed)} bytes; shorten them to {MAX_BODY}"
            raise ValueError(msg)
        return packed

    @classmethod
    def unpack(cls, packed: bytes) -> Family:
        """Return the family of the body of a FAMILY record; ValueError if no metric can have these fields."""
        try:
            labels, states, bounds = _COUNTS.unpack_from(packed)
            count = len(_TEXTS) + labels + states
            lengths = struct.unpack_from(f"={count}I", packed, _COUNTS.size)
            start = _COUNTS.size + 4 * count
            ends = list(accumulate(lengths, initial=start))
            if len(packed) != ends[-1] + WORD * bounds:
                raise ValueError("its length is another than its parts have")
            texts = [packed[low:high].decode() for low, high in pairwise(ends)]
            numbers = struct.unpack_from(f"={bounds}d", packed, ends[-1])
        except (struct.error, MemoryError, OverflowError) as error:
            msg = f"no metric: {error}"
            raise ValueError(msg) from error
        named = dict(zip(_TEXTS, texts, strict=False))
        rest = texts[len(_TEXTS) :]
        family = cls(**named, labels=tuple(rest[:labels]), states=tuple(rest[labels:]), bounds=numbers)
        family.check()
        return family

    def check(self) -> None:
        """Raise ValueError if no metric can be like this: it could not be merged, or would break the whole scrape."""
        # A gauge that the collector itself observes has one value, so it has no mode.
        is_single = self.kind == "gauge" and self.scope == "host" and not self.mode
        if self.mode not in _MODES.get(self.kind, ()) and not is_single:
            msg = f"metric {self.name!r}: no {self.kind!r} has the mode {self.mode!r}"
            raise ValueError(msg)
        if self.scope not in _SCOPES or self.temporality not in _TEMPORALITIES:
            msg = f"metric {self.name!r}: scope {self.scope!r}, temporality {self.temporality!r}"
            raise ValueError(msg)
        self._check_names()
        is_right = self._has_bounds() if self.kind == "histogram" else not self.bounds
        if not is_right or bool(self.states) != (self.kind == "enum") or len(set(self.states)) < len(self.states):
            msg = f"metric {self.name!r}: a {self.kind} with the buckets {self.bounds} and the states {self.states}"
            raise ValueError(msg)
        if self.width > MAX_WIDTH:
            msg = f"metric {self.name!r}: a series of {self.width} words; the limit is {MAX_WIDTH}"
            raise ValueError(msg)

    @property
    def _reserved(self) -> tuple[str, ...]:
        """Labels that the exposition adds itself, so the metric cannot have them."""
        if self.mode.endswith("all"):
            return ("worker",)
        return {"histogram": ("le",), "summary": ("quantile",), "enum": (self.name,)}.get(self.kind, ())

    def _has_bounds(self) -> bool:
        return self.bounds[-1:] == (math.inf,) and all(low < high for low, high in pairwise(self.bounds))

    def _check_names(self) -> None:
        if self.role:
            # The name of a registry's metric is free: the driver translates it.
            is_right = _KIND_OF_ROLE.get(self.role) == self.kind and _ROLE_NAME.match(self.name)
            if not is_right or self.name.split("/", 2)[1] != self.role or self.labels or self.original:
                msg = f"metric {self.name!r}: not a valid name of a {self.kind} that is a registry's {self.role!r}"
                raise ValueError(msg)
            return
        if self.kind == "sketch":
            msg = f"metric {self.name!r}: a sketch must belong to a registry"
            raise ValueError(msg)
        check_metric_name(self.name)
        check_label_names(self.name, self.labels, self._reserved)
        if self.original:
            check_name(self.original)
        elif self.unit and not self.name.endswith(f"_{self.unit}"):
            msg = f"metric {self.name!r}: its name does not end in its unit, {self.unit!r}"
            raise ValueError(msg)

    def difference(self, other: Family) -> str:
        """Return in words the first difference of two families of one name: ``labels ('a'), not ('b')``."""
        for name in ("kind", "original", "labels", "unit", "mode", "bounds", "states", "scope", "temporality", "role"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                return f"{'buckets' if name == 'bounds' else name} {_words(mine)}, not {_words(theirs)}"
        return "nothing"


def _words(value: object) -> str:
    if isinstance(value, tuple):
        finite = [item for item in value if not (isinstance(item, float) and math.isinf(item))]
        return "(" + ", ".join(map(str, finite)) + ")"
    return repr(value)
