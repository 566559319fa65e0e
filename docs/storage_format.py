"""Writes ``docs/storage-format.rst``, which is the specification that stands in ``mpmetrics/storage/format.py``."""

from __future__ import annotations

import inspect
from pathlib import Path

from mpmetrics.storage import format as fmt

HEADING = """\
The storage format
==================

.. This page is written by ``make docs`` from ``mpmetrics/storage/format.py``; change it there.

"""


def page() -> str:
    """The page as it has to be."""
    return HEADING + inspect.cleandoc(fmt.__doc__ or "") + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("storage-format.rst").write_text(page(), encoding="utf-8")
