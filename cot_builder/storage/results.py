"""Find the result folders of evaluations."""

from pathlib import Path

from schemas.errors import IndusCotError

PREDICTIONS_FILE = "predictions.parquet"
METRICS_FILE = "metrics.json"


def find_result_folders(root: Path) -> list[Path]:
    """Return the result folders of all sets below ``root``, or ``root`` itself if it contains the results of one set.

    Raises:
        IndusCotError: there are no results.
    """
    if (root / PREDICTIONS_FILE).is_file():
        return [root]
    found = find_set_folders(root, PREDICTIONS_FILE)
    if not found:
        raise IndusCotError(
            f"{root}: contains neither {PREDICTIONS_FILE} nor SET/{PREDICTIONS_FILE}; run `indus-cot evaluate`"
        )
    return found


def find_set_folders(root: Path, file: str) -> list[Path]:
    """Return the folders directly below ``root`` that contain ``file``.

    Skips hidden folders, which a killed run leaves behind, and folders that contain the results of another run, because
    the metrics there are means over sets.
    """
    return sorted(
        folder
        for folder in (path.parent for path in root.glob(f"*/{file}"))
        if not folder.name.startswith(".")
        and ((folder / PREDICTIONS_FILE).is_file() or not any(folder.glob(f"*/{PREDICTIONS_FILE}")))
    )
