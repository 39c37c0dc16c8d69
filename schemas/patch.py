"""PatchPair: a local patch of a sample with its global view."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.geometry import UnitBox
from schemas.sample import Name
from schemas.table import Table


class PatchPair(BaseModel):
    """One local patch. Its global view is the whole sample, downscaled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    patch_id: Name
    """``<sample_id>#<number>``."""
    sample_id: Name
    kind: Literal["proposal", "defect", "hard_normal"]
    """proposal: found without supervision. defect: centred on the true defect, with jitter. hard_normal: the most
    conspicuous region of a defect-free area."""
    box: UnitBox
    """Position on the original image."""
    rank: Annotated[int, Field(ge=0)]
    """Rank within the kind, the most conspicuous first."""
    score: Annotated[float, Field(ge=0)]
    """Conspicuousness of the patch: mean absolute difference from the background, in grey levels (0-255)."""
    method: Literal["foreground", "centre", "supervision"]
    """How the box was found; centre is the fallback for an image without contrast."""
    width: Annotated[int, Field(gt=0)]
    """Width of the stored patch in pixels."""
    height: Annotated[int, Field(gt=0)]
    """Height of the stored patch in pixels."""
    shard: Name
    row: Annotated[int, Field(ge=0)]
    global_shard: Name
    global_row: Annotated[int, Field(ge=0)]


PATCH = Table("patch", PatchPair, key=("patch_id",))
