"""Write the parameters in force to a file that DVC watches, with a fingerprint of each local source."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cot_builder.params import Params
from cot_builder.storage.output import write_text
from cot_builder.storage.source import TABLE_SUFFIXES, local_files
from cot_builder.storage.workspace import Workspace


def write_params(params: Params, workspace: Workspace, code: Mapping[str, str]) -> None:
    """Write ``data/params.json``, and empty review tables if there are none yet.

    ``pull.<name>.fingerprint`` changes with the local source, so that `dvc repro` pulls it again. ``compute`` and
    ``budget`` are not written: they affect the speed of a stage or whether it runs, but never its output.

    Args:
        params: The parameters in force.
        workspace: The project.
        code: Code key of each stage, written as ``code.<stage>``.
    """
    values: dict[str, Any] = params.model_dump(mode="json", exclude={"compute", "budget"})
    for name, settings in values["pull"].items():
        sources = params.pull[name].source
        settings["fingerprint"] = [
            fingerprint_source(source) for source in ([sources] if isinstance(sources, str) else sources)
        ]
        if settings["source"] == "synthetic":
            settings["synthetic"] = values["synthetic"] | {"seed": params.run.seed}
    del values["synthetic"]
    values["code"] = dict(code)
    write_text(workspace.params, json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    # Imported only if needed: DVC runs this function every time, and these imports take longer than the rest.
    if not (workspace.reviews.is_file() and workspace.prior_reviews.is_file()):
        from cot_builder.corpus.prior_reviews import ensure_prior_table
        from cot_builder.corpus.reviews import ensure_review_table

        ensure_review_table(workspace)
        ensure_prior_table(workspace)


def fingerprint_source(source: str) -> str:
    """Hash the names, sizes and modification times of the files of a local source; of a URL, hash the text.

    A table stands for its folder, as in ``open_members``.
    """
    digest = hashlib.sha256(source.encode())
    if "://" in source:
        return digest.hexdigest()[:16]
    path = Path(source).expanduser()
    root = path.parent if path.name.lower().endswith(TABLE_SUFFIXES) else path
    for file in [root] if root.is_file() else local_files(root):
        digest.update(_describe_file(file, file.relative_to(root)))
    return digest.hexdigest()[:16]


def _describe_file(file: Path, name: Path) -> bytes:
    try:
        stat = file.stat()
    except OSError:
        # `pull` reports the error if it reads this source.
        return f"{name}\0unreadable\n".encode("utf-8", "surrogateescape")
    return f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape")
