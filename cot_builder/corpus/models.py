"""The identity of a model: the hash of its weights, and the corpus it was trained on."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from cot_builder.corpus.validated import identify_corpus
from cot_builder.storage.output import read_manifest
from cot_builder.storage.workspace import Workspace, file_hash

WEIGHTS = ("*.safetensors", "*.bin", "*.json", "*.jinja", "*.txt", "*.model")
"""Files of a model that shape what it says."""


NOT_WEIGHTS = ("manifest.json",)


def weights_sha256(folder: Path) -> str:
    """Hash of the files of a model that shape what it says; how results name the model they are of."""
    files = sorted({path for pattern in WEIGHTS for path in folder.glob(pattern)} - {folder / n for n in NOT_WEIGHTS})
    return hashlib.sha256(json.dumps([[path.name, file_hash(path)] for path in files]).encode()).hexdigest()


TRAINING_STAGES = ("sft", "grpo")


def find_training_corpus(model: Path, workspace: Workspace) -> tuple[str, bool]:
    """Which corpus a model was trained on, by the hash of its manifest, and whether it is the one that lies here.

    A model that began from another one of this project has seen what that one saw too. Where it is not known which
    weights it began from, or others lie there by now (a model that went on from itself), nothing is known of them.
    """
    manifest = read_manifest(model)
    inputs: dict[str, Any] = manifest["inputs"]
    named, here = identify_corpus(inputs, workspace.indus_cot)
    parameters = manifest["params"]
    began = parameters.get("grpo", {}).get("model") or parameters.get("train", {}).get("model", "")
    earlier = workspace.root / began
    if not began or not is_trained_here(earlier):
        # Weights of this project that have gone since: their manifest's hash was kept.
        gone = is_sha256(inputs.get("model"))
        return named, here and not gone
    # Asked of what is the same alone, this ends: no manifest holds its own hash.
    same = inputs.get("model") == file_hash(earlier / "manifest.json")
    return named, here and same and find_training_corpus(earlier, workspace)[1]


def is_trained_here(model: Path) -> bool:
    """Whether a folder holds what a training of this project left there."""
    return (model / "manifest.json").is_file() and read_manifest(model).get("stage") in TRAINING_STAGES


def is_sha256(value: object) -> bool:
    """Whether a value is a sha256 in hexadecimal digits."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None
