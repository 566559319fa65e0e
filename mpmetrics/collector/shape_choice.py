"""Which of the shapes of one name is shown: all of them count, but one exposition has room for one of them.

Of those that a living process declares, it is the one whose first declaration in the epoch is the latest; where no
living process declares any, the one that was shown last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mpmetrics.storage.reader import SlabReader
    from mpmetrics.storage.shapes import Shape, Shapes

__all__ = ["ShapeChoice"]


class ShapeChoice:
    """The choice among the shapes of one reader, which keeps in mind what it has chosen before."""

    def __init__(self) -> None:
        self._shown: dict[str, tuple[object, ...]] = {}
        """Which shape of each metric was shown last."""

    def choose(
        self, shapes: Shapes, readers: Iterable[SlabReader]
    ) -> tuple[dict[str, list[Shape]], list[tuple[Shape, str]]]:
        """The shapes by metric, the one that is shown first, and those that are not shown with the reason."""
        shown = shapes.by_name()
        living = set()
        if any(len(rivals) > 1 for rivals in shown.values()):
            alive = [family for reader in readers if reader.is_alive for family in reader.families]
            living = {(family.name, family.shape) for family in alive}
        hidden: list[tuple[Shape, str]] = []
        for name, rivals in shown.items():
            if len(rivals) > 1:
                last = self._shown.get(name)
                ranks = {}
                for shape in rivals:
                    is_living = (name, shape.family.shape) in living
                    ranks[shape] = is_living, not is_living and shape.family.shape == last, shape.declared
                rivals.sort(key=ranks.__getitem__, reverse=True)
            first = rivals[0]
            self._shown[name] = first.family.shape
            for other in rivals[1:]:
                why = (
                    f"metric {name!r} as declared at {other.family.origin} is not shown: as declared later, at"
                    f" {first.family.origin}, it has {first.family.difference(other.family)}"
                )
                hidden.append((other, why))
        _leave_out_clashes(shown, hidden)
        return shown, hidden


def _leave_out_clashes(shown: dict[str, list[Shape]], hidden: list[tuple[Shape, str]]) -> None:
    """Of two metrics that would expose a sample of one name, have the one shown that was declared later."""
    owners: dict[str, Shape] = {}
    for first in sorted((shapes[0] for shapes in shown.values()), key=lambda shape: shape.declared, reverse=True):
        family = first.family
        clashing = next((owners[name].family for name in family.sample_names if name in owners), None)
        if clashing is None:
            owners.update(dict.fromkeys(family.sample_names, first))
            continue
        del shown[family.name]
        why = (
            f"metric {family.name!r} ({family.kind}, declared at {family.origin}) is not shown: {clashing.name!r}"
            f" ({clashing.kind}, declared at {clashing.origin}) exposes samples of the same name"
        )
        hidden.append((first, why))
