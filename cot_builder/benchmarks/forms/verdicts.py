"""Words for good and bad parts in labels and folder names."""

import re
from typing import Literal

from cot_builder.benchmarks.labels import FOLDER, map_label
from schemas.errors import IndusCotError

LABELS: dict[str, Literal["normal", "anomalous"]] = {
    **dict.fromkeys(("normal", "good", "ok", "0"), "normal"),
    **dict.fromkeys(("anomalous", "anomaly", "bad", "ng", "defect", "defective", "1"), "anomalous"),
}
VERDICTS = {
    "abnormal", "anomalies", "anomalous", "anomaly", "bad", "damage", "damaged", "defect", "defective", "defects",
    "fail", "failed", "fault", "faults", "faulty", "flawless", "good", "intact", "ng", "nio", "nok", "normal", "ok",
    "reject", "rejected", "rejects", "scrap",
}  # fmt: skip
"""Words that reveal the label when they occur in the name of a folder."""
WHOLE_VERDICTS = {
    "0", "1", "clean", "false", "io", "negative", "no", "pass", "passed", "positive", "true", "yes",
}  # fmt: skip
"""Words that reveal the label only as the whole name of a folder, not in ``part_1`` or ``negative_pole``."""


def tells_the_label(folder: str) -> bool:
    """Return whether the name of a folder says good or bad, or a type of defect."""
    words = re.findall(r"[a-z]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", folder).lower())
    if VERDICTS.intersection(words) or folder.lower() in WHOLE_VERDICTS:
        return True
    try:
        map_label(FOLDER, folder)
    except IndusCotError:
        return False
    return True
