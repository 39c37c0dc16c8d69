"""`indus-cot init`: creates a project from the files of a checkout or of the installed wheel."""

import importlib.metadata
import shutil
import sysconfig
from pathlib import Path

from cot_builder.storage.code import BASE
from cot_builder.storage.output import write_text
from schemas.errors import IndusCotError

FILES = ("params.yaml", "dvc.yaml", "prices.yaml", ".gitignore", ".dvcignore")
PROFILES = "profiles"
SHARED = "share/indus-cot"
README = "README.md"
DVC_CONFIG = "[core]\n    analytics = false\n    check_update = false\n"


def create_project(folder: Path) -> list[str]:
    """Write the files of a project into ``folder``; existing files stay.

    Args:
        folder: Created if missing. It may hold the user's files, such as photographs.

    Returns:
        Paths of the files written, relative to ``folder``.

    Raises:
        IndusCotError: the folder is a project already, or a file to be written exists already.
    """
    source = _find_source()
    wanted = {name: source / name for name in FILES}
    wanted |= {f"{PROFILES}/{path.name}": path for path in sorted((source / PROFILES).glob("*.yaml"))}
    if folder.exists() and not folder.is_dir():
        raise IndusCotError(f"init {folder}: this is a file; name a folder")
    if (folder / "params.yaml").exists():
        raise IndusCotError(f"init {folder}: holds params.yaml, so it is a project already; name another folder")
    # Keep the user's own README, .gitignore and .dvcignore.
    kept = {".gitignore", ".dvcignore"}
    conflicts = [name for name in wanted if (folder / name).exists() and name not in kept]
    if conflicts:
        raise IndusCotError(
            f"init {folder}: {', '.join(conflicts)} already exists there; move it away or name another folder"
        )
    written = []
    for name, path in wanted.items():
        if not (folder / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
            written.append(name)
    if not (folder / ".dvc").exists():
        write_text(folder / ".dvc/config", DVC_CONFIG)
        write_text(folder / ".dvc/.gitignore", "/config.local\n/tmp\n/cache\n")
        written += [".dvc/config", ".dvc/.gitignore"]
    if not (folder / README).exists():
        shutil.copyfile(Path(__file__).with_name("project_readme.md"), folder / README)
        written.append(README)
    return written


def _find_source() -> Path:
    """Return the folder with the project's files: the checkout, or the installation folder of the wheel."""
    # `pip install --target` puts the files beside the packages, not where its records say.
    folders = [BASE, BASE / SHARED, Path(sysconfig.get_path("data")) / SHARED]
    installed = importlib.metadata.files("indus-cot") or []
    folders += [Path(str(file.locate())).resolve().parent for file in installed if file.name == "params.yaml"]
    for folder in folders:
        if all((folder / name).is_file() for name in FILES):
            return folder
    raise IndusCotError(
        f"init: this installation lacks the files of a project ({', '.join(FILES)}); install the wheel again"
    )
