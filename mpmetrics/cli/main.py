"""Takes the command line apart and runs the command that it names."""

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
    """Run the command; returns the exit code: 0 when all is well, 1 when something is not, 2 for a bad command line."""
    parser = argparse.ArgumentParser(prog="mpmetrics", description="Metrics of all processes of a prefork server.")
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    checking = commands.add_parser(
        "check",
        help="say what is in use here, and whether the store can be used",
        description="Says which core is in use, compiled or pure, and whether the store can be read.",
    )
    checking.add_argument("store", nargs="?", help="directory of the store (default: what MPMETRICS_DIR says)")
    options = parser.parse_args(arguments)
    return check(options.store or os.environ.get("MPMETRICS_DIR"), print)


def _version() -> str:
    try:
        return version("mpmetrics-toolkit")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "unknown"
