"""The metrics that this process has declared, and what keeps two of them apart. No input or output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpmetrics.errors import ConflictError

if TYPE_CHECKING:
    from mpmetrics.names.family import Family

__all__ = ["Declared"]


class Declared:
    """Families by name. Each change is one operation that nothing interrupts, so any thread may ask."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}
        self._sample_names: dict[str, Family] = {}
        self._casefolded: dict[str, Family] = {}
        """Families of the Meter API, whose names are the same whatever their case."""

    def check(self, family: Family) -> Family | None:
        """The equal family that is there, or None; :class:`ConflictError` when ``family`` clashes with another one."""
        other = self._families.get(family.name)
        if other is not None:
            if other != family:
                msg = (
                    f"metric {family.name!r} declared at {family.origin} has {family.difference(other)}"
                    f" as declared at {other.origin}; give it another name, or the same kind, labels, unit, mode,"
                    " buckets, scope and temporality"
                )
                raise ConflictError(msg)
            return other
        other = self._casefolded.get(family.name.casefold()) if family.original else None
        if other is not None:
            msg = (
                f"instrument {family.original!r} declared at {family.origin} differs from {other.original!r} declared"
                f" at {other.origin} in the case of letters alone; give it another name, or the same"
            )
            raise ConflictError(msg)
        for name in sorted(family.sample_names):
            other = self._sample_names.get(name)
            if other is not None:
                msg = (
                    f"metric {family.name!r} ({family.kind}, declared at {family.origin}) would expose {name!r}, which"
                    f" {other.name!r} ({other.kind}, declared at {other.origin}) does already; give it another name"
                )
                raise ConflictError(msg)
        return None

    def add(self, family: Family) -> None:
        """Have a family that :meth:`check` let pass; doing it again changes nothing."""
        self._families.setdefault(family.name, family)
        for name in family.sample_names:
            self._sample_names.setdefault(name, family)
        if family.original:
            self._casefolded.setdefault(family.name.casefold(), family)
