"""Write a stage's output atomically: the folder appears complete, with a manifest, or not at all."""

import csv
import errno
import importlib.metadata
import json
import os
import platform
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cot_builder.progress import console
from schemas.errors import IndusCotError
from schemas.files import replace_file

REQUEST_FILE = ".request.json"
MAX_DIFFERENCES = 5
"""Number of changed settings that a message lists."""
TORCH_WRITE_ERROR = "inline_container"
"""Part of PyTorch's message for a failed write; the message does not give the reason."""
FULL_DISK_BYTES = 2**20
"""With less free space than this, a failed write of PyTorch is reported as a full disk."""
LIBRARIES = ("numpy", "opencv-python-headless", "pillow", "polars", "pyarrow", "pandera", "datasets")


@dataclass
class Output:
    """Staging folder of a running stage, and the facts of the run that go into its manifest."""

    path: Path
    """Staging folder; it replaces the stage's output when the stage succeeds."""
    strict: bool = False
    counts: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    """sha256 of the files that a later reader verifies, by path relative to the folder."""
    rows: dict[str, int] = field(default_factory=dict)
    """Row counts that the writer already knows, by path relative to the folder; others are read from the footers."""
    left_out: list[tuple[str, str, str]] = field(default_factory=list)
    """(reason, item, detail) of everything that the stage skipped."""

    def leave_out(self, reason: str, item: str, detail: str = "") -> None:
        """Record an item that the stage skips.

        Raises:
            IndusCotError: the run is strict.
        """
        if self.strict:
            raise IndusCotError(
                f"{item}: {reason}{f' ({detail})' if detail else ''}; run.strict is true, so the stage stops here"
            )
        self.left_out.append((reason, item, detail))


@contextmanager
def stage_output(
    target: Path,
    *,
    stage: str,
    params: Mapping[str, Any],
    inputs: Mapping[str, str],
    strict: bool = False,
    resumable: bool = False,
) -> Iterator[Output]:
    """Yield a staging folder next to ``target``; on success, add ``manifest.json`` and replace ``target`` with it.

    Args:
        target: The stage's output folder; the output of an earlier run is replaced by a rename.
        stage: Name of the stage.
        params: The parameters that determine the output.
        inputs: Inputs of the stage: name to hash or path.
        strict: Raise at the first item that is left out.
        resumable: Keep the staging folder of a killed or failed run, and yield it again to the next run with equal
            ``params``, ``inputs`` and versions of the libraries and the project. If any of these differ, the next
            run prints the differences and starts over; the earlier work stays in ``.NAME.aside`` until it succeeds.

    Raises:
        IndusCotError: ``target`` contains files that this stage did not write; another run is writing ``target``;
            the disk is full.
    """
    target = target.absolute()
    _check_may_replace(target, stage)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = staging_path(target)
    retired = target.with_name(f".{target.name}.retired")
    aside = target.with_name(f".{target.name}.aside")
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise IndusCotError(f"{target}: another run is writing this folder; wait for it to finish or stop it") from None
    used = read_versions()
    request = json.dumps(
        {"stage": stage, "params": params, "inputs": inputs, "versions": used}, sort_keys=True, default=str
    )
    started = time.perf_counter()
    try:
        _restore_retired(target, retired)
        if resumable:
            _set_aside(staging, aside, request)
        elif staging.exists():
            shutil.rmtree(staging)
        staging.mkdir(exist_ok=True)
        output = Output(staging, strict)
        (staging / REQUEST_FILE).write_text(request)
        try:
            yield output
        except BaseException:
            if not resumable:
                shutil.rmtree(staging, ignore_errors=True)
            raise
        (staging / REQUEST_FILE).unlink()
        _write_left_out(output)
        manifest = {
            "stage": stage,
            "inputs": dict(inputs),
            "params": dict(params),
            "counts": output.counts,
            "rows": dict(_count_rows(output)),
            **({"outputs": output.outputs} if output.outputs else {}),
            "left_out": dict(Counter(reason for reason, _, _ in output.left_out)),
            "versions": used,
            "seconds": round(time.perf_counter() - started, 2),
        }
        (staging / "manifest.json").write_text(json.dumps(manifest, indent=1, default=str) + "\n")
        if target.exists():
            os.replace(target, retired)
        os.replace(staging, target)
        _delete_output(retired)
        shutil.rmtree(aside, ignore_errors=True)
    except Exception as error:
        if _is_disk_full(error, staging):
            kept = f", and the finished part is kept in {staging}" if resumable else ""
            if not resumable:
                shutil.rmtree(staging, ignore_errors=True)
            raise IndusCotError(
                f"{target}: the disk is full; nothing was changed{kept}. Free some space and run `indus-cot {stage}` "
                "again"
            ) from error
        raise
    finally:
        lock.release()


def _count_rows(output: Output) -> Iterator[tuple[str, int]]:
    """Yield the relative path and the row count of each parquet file."""
    from pyarrow import parquet

    for path in sorted(output.path.rglob("*.parquet")):
        name = path.relative_to(output.path).as_posix()
        yield name, output.rows[name] if name in output.rows else parquet.read_metadata(path).num_rows


def find_damaged_tables(folder: Path, due: Mapping[str, int]) -> list[str]:
    """Check the footers of a stage's parquet files against the ``rows`` of its manifest; return one line a fault."""
    from pyarrow import ArrowException, parquet

    faults = []
    for name, rows in due.items():
        try:
            found = parquet.read_metadata(folder / name).num_rows
        except FileNotFoundError:
            faults.append(f"{folder / name} is missing")
        except (OSError, ArrowException) as error:
            faults.append(f"{folder / name} is damaged or truncated ({error})")
        else:
            if found != rows:
                faults.append(f"{folder / name} has {found} rows, expected {rows}")
    return faults


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a stage's output.

    Raises:
        IndusCotError: the manifest is missing, because the stage has not finished, or damaged.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise IndusCotError(f"{folder}: no manifest.json; the stage has not finished. Run `indus-cot repro`")
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise IndusCotError(f"{path}: damaged or truncated ({error}); run the stage again") from error
    if not isinstance(found, dict):
        raise IndusCotError(f"{path}: damaged: it does not contain a JSON object; run the stage again")
    return found


def _check_may_replace(target: Path, stage: str) -> None:
    """Refuse to replace a folder that this stage did not write: its path may have been given by mistake."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        wrote = str(read_manifest(target)["stage"])
    except (KeyError, OSError, IndusCotError):
        wrote = ""
    if wrote and _stage_family(wrote) != _stage_family(stage):
        raise IndusCotError(
            f"{target}: contains the output of {wrote}, which {stage} would delete; choose another folder, or delete it"
        )
    if wrote:
        return
    raise IndusCotError(
        f"{target}: contains files that no stage wrote, and {stage} would delete them; choose a new folder or delete it"
    )


def _stage_family(stage: str) -> str:
    """Map ``review pull`` and ``prior_review`` to ``review``, because they write the same folders."""
    return stage.split(maxsplit=1)[0].removeprefix("prior_")


def _is_disk_full(error: Exception, folder: Path) -> bool:
    # polars and pyarrow raise exceptions of their own that contain the text of the system's error.
    codes = (errno.ENOSPC, errno.EDQUOT)
    if getattr(error, "errno", None) in codes or any(os.strerror(code) in str(error) for code in codes):
        return True
    return TORCH_WRITE_ERROR in str(error) and shutil.disk_usage(folder).free < FULL_DISK_BYTES


def _restore_retired(target: Path, retired: Path) -> None:
    """Restore the old output after a run that was killed between its two renames."""
    if not retired.exists():
        return
    if target.exists():
        _delete_output(retired)
    else:
        os.replace(retired, target)


def _delete_output(folder: Path) -> None:
    """Delete a replaced output; of a symbolic link, delete only the link."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _set_aside(staging: Path, aside: Path, request: str) -> None:
    """Keep the work of a run with other settings, which may have taken hours, and print the differences."""
    if not staging.exists():
        return
    try:
        begun = (staging / REQUEST_FILE).read_text()
    except FileNotFoundError:
        # The run was killed before it did any work.
        shutil.rmtree(staging)
        return
    if begun == request:
        return
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(staging, aside)
    console.print(
        f"{staging}: the earlier run had other settings ({_describe_differences(begun, request)}); starting over. "
        f"The earlier work is kept in {aside} until this run succeeds",
        highlight=False,
        markup=False,
    )


def _describe_differences(before: str, after: str) -> str:
    try:
        old, new = _flatten(json.loads(before)), _flatten(json.loads(after))
    except ValueError:
        return "the record of its settings is damaged"
    found = [f"{name} {old.get(name)} -> {new.get(name)}" for name in {**old, **new} if old.get(name) != new.get(name)]
    if len(found) > MAX_DIFFERENCES:
        found[MAX_DIFFERENCES:] = [f"and {len(found) - MAX_DIFFERENCES} more"]
    return "; ".join(found)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings into one, with dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def _write_left_out(output: Output) -> None:
    with (output.path / "left_out.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["reason", "item", "detail"])
        writer.writerows(output.left_out)


def read_versions() -> dict[str, str]:
    """Return the versions of Python, of this project and of the libraries that affect its output."""
    found = {name: importlib.metadata.version(name) for name in ("indus-cot", *LIBRARIES)}
    return {"python": platform.python_version(), **found}


def staging_path(target: Path) -> Path:
    """Return the staging folder of a stage, which lies next to its output folder."""
    return target.with_name(f".{target.name}.partial")


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Write a text file in UTF-8; see :func:`write_bytes`."""
    write_bytes(path, text.encode("utf-8"), private=private)


def write_bytes(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a file atomically, also when several processes write it at the same time.

    Args:
        path: The file; its folder is created if it does not exist.
        content: Content of the file.
        private: Make the file readable by its owner only, and sync it to disk before returning: for keys and
            passwords.
    """
    with replace_file(path) as partial:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if private:
                file.flush()
                os.fsync(file.fileno())
