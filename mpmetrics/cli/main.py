"""Parses the command line and runs its command."""

from __future__ import annotations

import argparse
import os
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from mpmetrics.cli.check import check

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code: 0 for success, 1 for a problem that it found, 2 for a bad command line."""
    parser = argparse.ArgumentParser(prog="mpmetrics", description="Metrics of all processes of a prefork server.")
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    checking = commands.add_parser(
        "check",
        help="show the core in use and the state of a store",
        description="Shows which core is in use, compiled or pure, and whether the store can be read.",
    )
    checking.add_argument("store", nargs="?", help="directory of the store (default: $MPMETRICS_DIR)")
    options = parser.parse_args(arguments)
    return check(options.store or os.environ.get("MPMETRICS_DIR"), print)


def _version() -> str:
    try:
        return version("mpmetrics-toolkit")
    except PackageNotFoundError:  # running from a source tree that is not installed
        return "unknown"
