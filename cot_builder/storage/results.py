"""Where the results of evaluations lie."""

from pathlib import Path

from schemas.errors import IndusCotError

PREDICTIONS_FILE = "predictions.parquet"


METRICS_FILE = "metrics.json"


def find_result_folders(root: Path) -> list[Path]:
    """The sets that a folder of results holds, or the folder itself where it is of one set.

    Raises:
        IndusCotError: it holds none.
    """
    if (root / PREDICTIONS_FILE).is_file():
        return [root]
    found = find_set_folders(root, PREDICTIONS_FILE)
    if not found:
        raise IndusCotError(
            f"{root}: neither {PREDICTIONS_FILE} nor SET/{PREDICTIONS_FILE} in it; run `indus-cot evaluate`"
        )
    return found


def find_set_folders(root: Path, file: str) -> list[Path]:
    """Folders below ``root`` that hold ``file``.

    Not the hidden ones that a killed run leaves, nor results of another run that lie there: their metrics are a mean.
    """
    return sorted(
        folder
        for folder in (path.parent for path in root.glob(f"*/{file}"))
        if not folder.name.startswith(".")
        and ((folder / PREDICTIONS_FILE).is_file() or not any(folder.glob(f"*/{PREDICTIONS_FILE}")))
    )
