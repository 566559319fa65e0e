"""A metric as all processes agree on it, and what makes the fields of a FAMILY record one. No input or output."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields
from itertools import pairwise
from operator import lt
from typing import Any

from mpmetrics._cells import LAYOUTS, RECORD
from mpmetrics.names.naming import check_label_names, check_metric_name
from mpmetrics.names.translation import check_name, label_name
from mpmetrics.storage import format as fmt

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
_LATER = frozenset({"original", "scope", "temporality", "role"})
"""Fields that a record may go without."""

MAX_WIDTH = fmt.MAX_SEGMENT // fmt.WORD
"""Words that a series may have: those of one segment of a slab."""

_SUFFIXES = {
    "counter": ("", "_total", "_created"),
    "histogram": ("", "_bucket", "_count", "_sum", "_created"),
    "summary": ("", "_count", "_sum", "_created"),
    "info": ("", "_info"),
}


@dataclass(frozen=True)
class Family:
    """A metric as all processes agree on it.

    ``kind`` is counter, updowncounter, gauge, histogram, summary, info, enum or sketch. ``mode`` is how a gauge or an
    up-down counter merges over processes, and which layout a sketch has. ``bounds`` are the upper bounds of a
    histogram's buckets, the last one infinite; ``states`` an enum's. ``original`` is the name in the Meter API, of a
    metric that has one. ``scope`` is where the callbacks of an asynchronous metric run, host or worker, and
    ``temporality`` what they observe: cumulative or delta; or observed, of a registry's gauge with a function.
    ``role`` is what a registry's metric is there: counter, gauge, meter, histogram, timer or healthcheck,
    or what a counter went down by, decrease. Such a family
    is named ``registry/role/registry's name/name``, and shows through a driver alone. ``origin`` says where it was
    declared, for messages, and is no part of what must agree.
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
        """Slots of one series."""
        if self.kind in ("histogram", "summary"):
            return 2 + max(1, len(self.bounds))
        if self.kind in ("info", "enum") or self.mode in ("mostrecent", "livemostrecent"):
            return 4
        if self.kind == "sketch":
            return 2 * RECORD + LAYOUTS[self.mode].size
        return 1

    @property
    def is_open(self) -> bool:
        """Whether a series carries names and values of more labels behind the values of ``labels``."""
        return self.kind == "info" or bool(self.original or self.role)

    def pairs(self, key: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
        """Label names and values of the series ``key``."""
        if not self.is_open:
            return tuple(zip(self.labels, key, strict=True))
        size = len(self.labels)
        more = key[size:]
        return (*zip(self.labels, key, strict=False), *zip(more[::2], more[1::2], strict=True))

    @property
    def sample_names(self) -> frozenset[str]:
        """Every name that the exposition of this family takes."""
        return frozenset(self.name + suffix for suffix in _SUFFIXES.get(self.kind, ("",)))

    def dump(self) -> dict[str, Any]:
        """The fields of a FAMILY record; bounds in ``float.hex`` form, so that they come back to the bit."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        values["bounds"] = [bound.hex() for bound in self.bounds]
        return values

    @classmethod
    def load(cls, values: dict[str, Any]) -> Family:
        """The family of a FAMILY record; TypeError, ValueError or KeyError when the fields are not a family's."""
        family = cls(
            **{name: _text(values.get(name, "") if name in _LATER else values[name]) for name in _TEXTS},
            labels=_texts(values["labels"]),
            bounds=tuple(map(float.fromhex, _texts(values["bounds"]))),
            states=_texts(values["states"]),
        )
        family.check()
        return family

    def check(self) -> None:
        """ValueError when no metric can be like this: it could not be merged, or would spoil the scrape of all."""
        # A gauge that the collector itself observes has one value.
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
        """Labels that the exposition adds itself."""
        if self.mode.endswith("all"):
            return ("worker",)
        return {"histogram": ("le",), "summary": ("quantile",), "enum": (self.name,)}.get(self.kind, ())

    def _has_bounds(self) -> bool:
        return self.bounds[-1:] == (math.inf,) and all(low < high for low, high in pairwise(self.bounds))

    def _check_names(self) -> None:
        if self.role:
            # A registry and a metric may be called anything.
            is_right = _KIND_OF_ROLE.get(self.role) == self.kind and _ROLE_NAME.match(self.name)
            if not is_right or self.name.split("/", 2)[1] != self.role or self.labels or self.original:
                msg = f"metric {self.name!r}: no {self.kind} of a registry that is a {self.role!r} is called like this"
                raise ValueError(msg)
            return
        if self.kind == "sketch":
            msg = f"metric {self.name!r}: a sketch shows through a registry alone"
            raise ValueError(msg)
        check_metric_name(self.name)
        check_label_names(self.name, self.labels, self._reserved)
        if self.original:
            check_name(self.original)
        elif self.unit and not self.name.endswith(f"_{self.unit}"):
            msg = f"metric {self.name!r}: its name does not end in its unit, {self.unit!r}"
            raise ValueError(msg)

    def key(self, values: object) -> Key:
        """The label values of a SERIES record; TypeError or ValueError when no series of this family has them."""
        if values is None:
            return None
        key = _texts(values)
        size = len(self.labels)
        names = key[size::2] if self.is_open else ()
        ordered = sorted(names) if self.role else names
        is_right = len(key) == size + 2 * len(names) and all(names) and all(map(lt, ordered, ordered[1:]))
        if names and self.labels:
            is_right = is_right and set(names).isdisjoint(self.labels)
        if names and self._reserved:
            is_right = is_right and set(map(label_name, names)).isdisjoint(self._reserved)
        if not is_right:
            msg = f"metric {self.name!r} cannot have a series {key}"
            raise ValueError(msg)
        return key

    def difference(self, other: Family) -> str:
        """In words, what keeps two families of one name apart."""
        for name in ("kind", "original", "labels", "unit", "mode", "bounds", "states", "scope", "temporality", "role"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                return f"{name} {_words(mine)}, not {_words(theirs)}"
        return "nothing"


def _words(value: object) -> str:
    if isinstance(value, tuple):
        finite = [item for item in value if not (isinstance(item, float) and math.isinf(item))]
        return "(" + ", ".join(map(str, finite)) + ")"
    return repr(value)


def _text(value: object) -> str:
    """``value``, which has to be text that UTF-8 can carry."""
    if not isinstance(value, str):
        msg = f"{value!r:.50} is no text"
        raise TypeError(msg)
    value.encode()
    return value


def _texts(values: object) -> tuple[str, ...]:
    if not isinstance(values, list | tuple):
        msg = f"{values!r:.50} is no list of texts"
        raise TypeError(msg)
    "".join(values).encode()  # all at once: this is done for each series
    return tuple(values)
