"""One of the processes of `bench.training`: `sft` on a folder's corpus, then out."""

import os
import sys
from pathlib import Path

import torch

from bench.training import AT_ONCE, UPDATES
from cot_builder.progress import console
from cot_builder.storage.workspace import Workspace
from tests.helpers import small_corpus
from train.sft import sft


def main(model: str, folder: Path) -> None:
    """Train from ``model`` on the corpus of ``folder``."""
    torch.set_num_threads(1)
    console.quiet = True
    base = small_corpus.params()
    settings = {"steps": UPDATES, "batch": AT_ONCE, "accumulation": 1, "save_steps": 1000}
    params = base.model_copy(
        update={
            "train": base.train.model_copy(update={"model": model}),
            "sft": base.sft.model_copy(update=settings),
        }
    )
    sft(params, Workspace(folder))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
    # A thread of gloo may abort at the interpreter's exit.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
