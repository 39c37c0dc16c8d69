"""The parameters in force, written where DVC can watch them, with a fingerprint of each local source."""

import hashlib
import os
from pathlib import Path
from typing import Any

import yaml

from cot_builder.params import Params
from cot_builder.storage.output import write_text
from cot_builder.storage.workspace import Workspace


def resolve(params: Params, workspace: Workspace) -> None:
    """Write ``data/params.yaml``.

    ``pull.<name>.fingerprint`` changes whenever a local source does, so that `dvc repro` pulls it again;
    ``compute`` is left out, since it changes how fast a stage runs and never what it makes.
    """
    values: dict[str, Any] = params.model_dump(mode="json", exclude={"compute"})
    for name, settings in values["pull"].items():
        sources = params.pull[name].source
        settings["fingerprint"] = [
            fingerprint(source) for source in ([sources] if isinstance(sources, str) else sources)
        ]
        if settings["source"] == "synthetic":
            settings["synthetic"] = values["synthetic"] | {"seed": params.run.seed}
    del values["synthetic"]
    write_text(workspace.params, yaml.safe_dump(values, sort_keys=False))


def fingerprint(source: str) -> str:
    """Hash over names, sizes and times of a local file or folder; of the text itself for anything else."""
    digest = hashlib.sha256(source.encode())
    path = Path(source)
    if path.is_file():
        digest.update(_facts(path.name, path.stat()))
    for folder, subfolders, files in os.walk(path):
        subfolders.sort()
        for name in sorted(files):
            digest.update(_facts(f"{folder}/{name}", (Path(folder) / name).stat()))
    return digest.hexdigest()[:16]


def _facts(name: str, stat: os.stat_result) -> bytes:
    return f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode()
