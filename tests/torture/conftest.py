"""The count of tries and losses that each torture test reports for the table at the end of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    Tally = Callable[..., None]


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Tally:
    """Note how often something was tried, and how much was lost of what had to be kept."""

    def note(tried: int, *, lost: float = 0) -> None:
        record_property("tried", tried)
        record_property("lost", lost)

    return note
