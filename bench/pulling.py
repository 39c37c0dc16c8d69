"""`pull` from a .tar against reading the same members with tarfile and hashing them."""

import hashlib
import shutil
import tarfile
import tempfile
from pathlib import Path

from bench.data import write_jpeg_archive
from bench.paired import Row, own_memory, paired
from cot_builder.params import Params, load_params
from cot_builder.progress import console
from cot_builder.stages.pull import pull
from cot_builder.storage.workspace import Workspace

IMAGES = 960
"""A small benchmark; the tables that are written at the end cost the same for any."""


def archive_params(archive: Path) -> Params:
    """The default parameters with ``archive`` as the MVTec AD source."""
    return load_params(settings=[f"pull.mvtec_ad.source={archive}"])


def pull_tar() -> Row:
    """960 JPEG photographs as VisA and Real-IAD have them; ours also checks each, reads masks and writes shards."""
    console.quiet = True
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "visa.tar"
        write_jpeg_archive(archive, IMAGES)
        params = load_params(settings=[f"pull.visa.source={archive}"])
        workspace = Workspace(Path(folder))

        def theirs() -> None:
            with tarfile.open(archive) as members:
                for member in members:
                    file = members.extractfile(member)
                    assert file is not None
                    hashlib.sha256(file.read()).hexdigest()

        def clear() -> None:
            # A first pull: taking away what an earlier one left is no part of it.
            shutil.rmtree(workspace.pull("visa"), ignore_errors=True)
            own_memory(Path(folder) / "scratch", archive.stat().st_size)

        ratio = paired(lambda: pull("visa", params, workspace), theirs, 7, before=clear)
    return Row(
        "pull_tar", "pull JPEG photographs from a .tar", "tarfile and sha256 of the same members", ratio, 0.6, "higher"
    )
