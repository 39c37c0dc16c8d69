"""Identify a model: the hash of its weights, and the corpus it was trained on."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from cot_builder.corpus.validated import identify_corpus
from cot_builder.storage.output import read_manifest
from cot_builder.storage.workspace import Workspace, file_hash

WEIGHTS = ("*.safetensors", "*.bin", "*.json", "*.jinja", "*.txt", "*.model")
"""Files of a model that affect its output."""
NOT_WEIGHTS = ("manifest.json",)


def weights_sha256(folder: Path) -> str:
    """Hash the files of a model that affect its output; results refer to their model by this hash."""
    files = sorted({path for pattern in WEIGHTS for path in folder.glob(pattern)} - {folder / n for n in NOT_WEIGHTS})
    return hashlib.sha256(json.dumps([[path.name, file_hash(path)] for path in files]).encode()).hexdigest()


TRAINING_STAGES = ("sft", "grpo")


def find_training_corpus(model: Path, workspace: Workspace) -> tuple[str, bool]:
    """Find the corpus that a model was trained on.

    A model that was trained from another model of this project has also seen the data of that model. If those initial
    weights are gone, or were replaced since (for example by training a model further in place), their training data
    are unknown.

    Returns:
        The hash of the corpus' manifest, and whether the model, with all models it was trained from, has only seen
        the corpus in this workspace.
    """
    manifest = read_manifest(model)
    inputs: dict[str, Any] = manifest["inputs"]
    named, here = identify_corpus(inputs, workspace.indus_cot)
    parameters = manifest["params"]
    began = parameters.get("grpo", {}).get("model") or parameters.get("train", {}).get("model", "")
    earlier = workspace.root / began
    if not began or not is_trained_here(earlier):
        # A hash in `inputs` means that the initial weights were a model of this project, and that it is gone now.
        gone = is_sha256(inputs.get("model"))
        return named, here and not gone
    # The recursion ends: it only continues if the hash matches, and no manifest contains its own hash.
    same = inputs.get("model") == file_hash(earlier / "manifest.json")
    return named, here and same and find_training_corpus(earlier, workspace)[1]


def is_trained_here(model: Path) -> bool:
    """Return whether a folder contains a model trained by this project."""
    return (model / "manifest.json").is_file() and read_manifest(model).get("stage") in TRAINING_STAGES


def is_sha256(value: object) -> bool:
    """Return whether a value is a sha256 in hexadecimal digits."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None
