"""The metrics that this process has declared, and the check that two of them do not conflict. No input or output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpmetrics.errors import ConflictError

if TYPE_CHECKING:
    from mpmetrics.names.family import Family

__all__ = ["Declared"]


class Declared:
    """Families by name. Any thread may call the methods: each change is one operation that nothing interrupts."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}
        self._sample_names: dict[str, Family] = {}
        self._casefolded: dict[str, Family] = {}
        """Families of the Meter API by casefolded name: there, two names must not differ in case alone."""

    def check(self, family: Family) -> Family | None:
        """Return the equal family that is declared, or None; :class:`ConflictError` if another one conflicts."""
        other = self._families.get(family.name)
        if other is not None:
            if other != family:
                msg = (
                    f"metric {family.name!r} declared at {family.origin} has {family.difference(other)}"
                    f" as declared at {other.origin}; use another name, or the same kind, labels, unit, mode,"
                    " buckets, scope and temporality"
                )
                raise ConflictError(msg)
            return other
        other = self._casefolded.get(family.name.casefold()) if family.original else None
        if other is not None:
            msg = (
                f"instrument {family.original!r} declared at {family.origin} differs from {other.original!r} declared"
                f" at {other.origin} in the case of letters alone; use another name, or the same case"
            )
            raise ConflictError(msg)
        for name in sorted(family.sample_names):
            other = self._sample_names.get(name)
            if other is not None:
                msg = (
                    f"metric {family.name!r} ({family.kind}, declared at {family.origin}) would expose {name!r}, which"
                    f" {other.name!r} ({other.kind}, declared at {other.origin}) exposes already; use another name"
                )
                raise ConflictError(msg)
        return None

    def add(self, family: Family) -> None:
        """Add a family that passed :meth:`check`. Adding it again changes nothing."""
        self._families.setdefault(family.name, family)
        for name in family.sample_names:
            self._sample_names.setdefault(name, family)
        if family.original:
            self._casefolded.setdefault(family.name.casefold(), family)
