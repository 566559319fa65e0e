"""``python -m mpmetrics``: the same as the command ``mpmetrics``."""

import sys

from mpmetrics.cli import main

sys.exit(main())
