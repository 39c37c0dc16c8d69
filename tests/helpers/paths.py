"""Paths of the checkout and of the photographs for tests."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""
REAL = Path(os.environ.get("INDUS_COT_REAL_DATA", ROOT.parent / "shared" / "real"))
"""Real photographs in the official layouts; tests that need them are skipped with a message if they are missing."""
