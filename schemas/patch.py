"""PatchPair: a local patch of a sample beside its global view."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.geometry import UnitBox
from schemas.sample import Name
from schemas.table import Table


class PatchPair(BaseModel):
    """One local patch; its global view is the sample's downscaled whole."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    patch_id: Name
    """``<sample_id>#<number>``."""
    sample_id: Name
    kind: Literal["proposal", "defect", "hard_normal"]
    """proposal: found without supervision; defect: centred on the truth, jittered; hard_normal: the most
    conspicuous place of a defect-free area."""
    box: UnitBox
    """On the original image."""
    rank: Annotated[int, Field(ge=0)]
    """Order within the kind, most conspicuous first."""
    score: Annotated[float, Field(ge=0)]
    """Conspicuousness of the patch: mean absolute difference from the background, in grey levels (0-255)."""
    method: Literal["foreground", "centre", "supervision"]
    """How the box was found; centre is the fallback of a flat image."""
    width: Annotated[int, Field(gt=0)]
    """Of the stored patch, in pixels."""
    height: Annotated[int, Field(gt=0)]
    shard: Name
    row: Annotated[int, Field(ge=0)]
    global_shard: Name
    global_row: Annotated[int, Field(ge=0)]


PATCH = Table("patch", PatchPair, key=("patch_id",))
