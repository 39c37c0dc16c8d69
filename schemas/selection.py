"""Selection: the split of the corpus that a selected sample belongs to."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from schemas.sample import Name
from schemas.table import Table


class Selection(BaseModel):
    """Split of one selected sample. Samples of the same physical part are in the same split."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sample_id: Name
    split: Literal["train", "validation"]


SPLIT = Table("split", Selection, key=("sample_id",))
