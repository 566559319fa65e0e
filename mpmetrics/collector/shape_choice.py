"""ShapeChoice: decides which shape of a metric is shown, if processes have declared it differently.

All shapes count, but an exposition can show one shape of a name. Shown is, among the shapes that a living process has
declared, the one whose first declaration in the epoch is the latest. If no living process has declared any, the shape
that was shown last stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mpmetrics.storage.reader import SlabReader
    from mpmetrics.storage.shapes import Shape, Shapes

__all__ = ["ShapeChoice"]


class ShapeChoice:
    """The choice among the shapes of one epoch reader. It remembers what it has chosen before."""

    def __init__(self) -> None:
        self._shown: dict[str, tuple[object, ...]] = {}
        """By metric, the shape that was shown last."""

    def choose(
        self, shapes: Shapes, readers: Iterable[SlabReader]
    ) -> tuple[dict[str, list[Shape]], list[tuple[Shape, str]]]:
        """Return the shapes by metric, the shown one first, and the hidden ones with the reason."""
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
    """Hide one of two metrics that would expose a sample of the same name: the one that was declared earlier."""
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
