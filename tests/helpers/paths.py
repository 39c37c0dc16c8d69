"""Where the checkout and the photographs for tests lie."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""
REAL = Path(os.environ.get("INDUS_COT_REAL_DATA", ROOT.parent / "shared" / "real"))
"""Real photographs in the official layouts; tests that read them skip aloud where they are absent."""
