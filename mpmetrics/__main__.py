"""``python -m mpmetrics``."""

import sys

from mpmetrics.cli import main

sys.exit(main())
