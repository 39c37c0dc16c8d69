"""Python in a copy of the product, which a test has added a file to."""

import os
import subprocess
import sys
from pathlib import Path

from tests.helpers.pipeline import ENVIRONMENT


def run_copy(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in ``project``, a copy made by :func:`tests.helpers.pipeline.new_project`, with the copy's modules."""
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": str(project)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=project, env=environment, capture_output=True, text=True, check=False
    )
