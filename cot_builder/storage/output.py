"""A stage's output appears whole or not at all, with a manifest."""

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

REQUEST = ".request.json"
MOST_NAMED = 5
TORCH_WRITES = "inline_container"
"""Where PyTorch says that it could not write a file; why, it does not say."""
NO_ROOM = 2**20
LIBRARIES = ("numpy", "opencv-python-headless", "pillow", "polars", "pyarrow", "pandera", "datasets")


@dataclass
class Output:
    """The folder a stage writes to before it is put in place, and what it has to say of the run."""

    path: Path
    """Staging folder; becomes the stage's output when the stage ends well."""
    strict: bool = False
    counts: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    """sha256 of files that a later reader checks, by path in the folder."""
    rows: dict[str, int] = field(default_factory=dict)
    """Of the tables whose writer knows it, by path in the folder; the footers of all others are read."""
    left_out: list[tuple[str, str, str]] = field(default_factory=list)

    def leave_out(self, reason: str, item: str, detail: str = "") -> None:
        """Count and name something that the stage did not take.

        Raises:
            IndusCotError: the run is strict.
        """
        if self.strict:
            raise IndusCotError(
                f"{item}: {reason}{f' ({detail})' if detail else ''}; strict runs stop here (run.strict)"
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
    """Yield a staging folder beside ``target`` and put it in place, with ``manifest.json``, on success.

    Args:
        target: The stage's output folder; what an earlier run left there is replaced in one rename.
        stage: Name of the stage.
        params: The parameters that shape the output.
        inputs: What it was made from: name to hash or path.
        strict: Raise at the first thing left out.
        resumable: Keep the staging folder of a run that was killed or failed, and offer it to the next
            run with equal ``params``, ``inputs`` and versions of the libraries and the project. Another run says what
            differs and begins anew; until it has ended well, what was done lies in ``.NAME.aside``.

    Raises:
        IndusCotError: ``target`` holds files that no stage, or another one, wrote; another run is writing it; the
            disk is full.
    """
    target = target.absolute()
    _spare(target, stage)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = staging_of(target)
    retired = target.with_name(f".{target.name}.retired")
    aside = target.with_name(f".{target.name}.aside")
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise IndusCotError(f"{target}: another run is writing it; wait for that run or stop it") from None
    used = versions()
    request = json.dumps(
        {"stage": stage, "params": params, "inputs": inputs, "versions": used}, sort_keys=True, default=str
    )
    started = time.perf_counter()
    try:
        _restore(target, retired)
        if resumable:
            _set_aside(staging, aside, request)
        elif staging.exists():
            shutil.rmtree(staging)
        staging.mkdir(exist_ok=True)
        output = Output(staging, strict)
        (staging / REQUEST).write_text(request)
        try:
            yield output
        except BaseException:
            if not resumable:
                shutil.rmtree(staging, ignore_errors=True)
            raise
        (staging / REQUEST).unlink()
        _write_left_out(output)
        manifest = {
            "stage": stage,
            "inputs": dict(inputs),
            "params": dict(params),
            "counts": output.counts,
            "rows": dict(_rows(output)),
            **({"outputs": output.outputs} if output.outputs else {}),
            "left_out": dict(Counter(reason for reason, _, _ in output.left_out)),
            "versions": used,
            "seconds": round(time.perf_counter() - started, 2),
        }
        (staging / "manifest.json").write_text(json.dumps(manifest, indent=1, default=str) + "\n")
        if target.exists():
            os.replace(target, retired)
        os.replace(staging, target)
        _delete(retired)
        shutil.rmtree(aside, ignore_errors=True)
    except Exception as error:
        if _disk_is_full(error, staging):
            kept = f", and what was done is kept in {staging}" if resumable else ""
            if not resumable:
                shutil.rmtree(staging, ignore_errors=True)
            raise IndusCotError(
                f"{target}: the disk is full; nothing was changed{kept}. Free some space and run `indus-cot {stage}` "
                "again"
            ) from error
        raise
    finally:
        lock.release()


def _rows(output: Output) -> Iterator[tuple[str, int]]:
    from pyarrow import parquet

    for path in sorted(output.path.rglob("*.parquet")):
        name = path.relative_to(output.path).as_posix()
        yield name, output.rows[name] if name in output.rows else parquet.read_metadata(path).num_rows


def damaged_tables(folder: Path, due: Mapping[str, int]) -> list[str]:
    """What is wrong with the parquet files of a stage's output, by their footers and the ``rows`` of its manifest."""
    from pyarrow import ArrowException, parquet

    faults = []
    for name, rows in due.items():
        try:
            found = parquet.read_metadata(folder / name).num_rows
        except FileNotFoundError:
            faults.append(f"{folder / name} is gone")
        except (OSError, ArrowException) as error:
            faults.append(f"{folder / name} is damaged or cut short ({error})")
        else:
            if found != rows:
                faults.append(f"{folder / name} has {found} rows, not {rows}")
    return faults


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a stage's output.

    Raises:
        IndusCotError: the folder has none, since the stage has not run, or a damaged one.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise IndusCotError(f"{folder}: no manifest.json; the stage has not finished. Run `indus-cot repro`")
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise IndusCotError(f"{path}: damaged or cut short ({error}); run its stage again") from error
    if not isinstance(found, dict):
        raise IndusCotError(f"{path}: damaged, it holds no manifest; run its stage again")
    return found


def _spare(target: Path, stage: str) -> None:
    """Refuse a folder that would be replaced and that this stage did not write: it may have been named by mistake."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        wrote = str(read_manifest(target)["stage"])
    except (KeyError, OSError, IndusCotError):
        wrote = ""
    if wrote and _kind(wrote) != _kind(stage):
        raise IndusCotError(
            f"{target}: holds what {wrote} wrote, and {stage} would delete it; name another folder, or delete it"
        )
    if wrote:
        return
    raise IndusCotError(
        f"{target}: holds files that no stage wrote, and {stage} would delete them; name a new folder, or delete it"
    )


def _kind(stage: str) -> str:
    """``review`` for ``review pull`` and ``prior_review`` too: they write the same folders."""
    return stage.split(maxsplit=1)[0].removeprefix("prior_")


def _disk_is_full(error: Exception, folder: Path) -> bool:
    # polars and pyarrow wrap the system's error in kinds of their own, with its text inside.
    codes = (errno.ENOSPC, errno.EDQUOT)
    if getattr(error, "errno", None) in codes or any(os.strerror(code) in str(error) for code in codes):
        return True
    return TORCH_WRITES in str(error) and shutil.disk_usage(folder).free < NO_ROOM


def _restore(target: Path, retired: Path) -> None:
    """Put back what was there before a run that was killed between its two renames."""
    if not retired.exists():
        return
    if target.exists():
        _delete(retired)
    else:
        os.replace(retired, target)


def _delete(folder: Path) -> None:
    """An output that was replaced; where it was a link to one, the link alone."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _set_aside(staging: Path, aside: Path, request: str) -> None:
    """Keep the work of a run that was begun otherwise, and say in what; hours may be in it."""
    if not staging.exists():
        return
    try:
        begun = (staging / REQUEST).read_text()
    except FileNotFoundError:
        # A run that was killed before it had done anything.
        shutil.rmtree(staging)
        return
    if begun == request:
        return
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(staging, aside)
    console.print(
        f"{staging}: was begun with other values ({_differences(begun, request)}); begins anew. What was done is kept "
        f"in {aside} until this run has ended well",
        highlight=False,
        markup=False,
    )


def _differences(before: str, after: str) -> str:
    try:
        old, new = _leaves(json.loads(before)), _leaves(json.loads(after))
    except ValueError:
        return "its record is damaged"
    found = [f"{name} {old.get(name)} -> {new.get(name)}" for name in {**old, **new} if old.get(name) != new.get(name)]
    return "; ".join(found[:MOST_NAMED] + [f"and {len(found) - MOST_NAMED} more"] * (len(found) > MOST_NAMED))


def _leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def _write_left_out(output: Output) -> None:
    with (output.path / "left_out.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["reason", "item", "detail"])
        writer.writerows(output.left_out)


def versions() -> dict[str, str]:
    """Versions of Python, of this project and of the libraries that shape what it writes."""
    found = {name: importlib.metadata.version(name) for name in ("indus-cot", *LIBRARIES)}
    return {"python": platform.python_version(), **found}


def staging_of(target: Path) -> Path:
    """The folder that a stage writes to until it has ended well, beside its output."""
    return target.with_name(f".{target.name}.partial")


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Write a text file in UTF-8; see :func:`write_bytes`."""
    write_bytes(path, text.encode("utf-8"), private=private)


def write_bytes(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a file; it appears whole or not at all, however many processes write it.

    Args:
        path: Its folder is made where it is not there.
        content: Of the file.
        private: Only its owner may read it, and it is on the disk before this returns: for keys and passwords.
    """
    with replace_file(path) as partial:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if private:
                file.flush()
                os.fsync(file.fileno())
