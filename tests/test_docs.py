"""What the documentation takes from the code is what the code says."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_storage_format_page_is_the_codes() -> None:
    """``docs/storage-format.rst`` is what ``make docs`` writes."""
    page = runpy.run_path(str(ROOT / "docs" / "storage_format.py"))["page"]
    assert page() == (ROOT / "docs" / "storage-format.rst").read_text(encoding="utf-8")


PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(path: Path) -> None:
    """A relative link on a page names a file that is there."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8"))
    assert [] == [link for link in links if not (path.parent / link).exists()]
