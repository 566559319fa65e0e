"""The command line: ``mpmetrics``, or ``python -m mpmetrics``."""

from mpmetrics.cli.main import main

__all__ = ["main"]
