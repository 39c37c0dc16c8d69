"""Words that tell a good part from a bad one."""

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
"""Words in a folder's name that tell the label."""
WHOLE_VERDICTS = {
    "0", "1", "clean", "false", "io", "negative", "no", "pass", "passed", "positive", "true", "yes",
}  # fmt: skip
"""Names of folders that tell it, and within a longer one do not: ``part_1``, ``negative_pole``."""


def tells_the_label(folder: str) -> bool:
    """Whether a folder's name says good or bad, or a type of defect."""
    words = re.findall(r"[a-z]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", folder).lower())
    if VERDICTS.intersection(words) or folder.lower() in WHOLE_VERDICTS:
        return True
    try:
        map_label(FOLDER, folder)
    except IndusCotError:
        return False
    return True
