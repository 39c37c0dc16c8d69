"""Selection: which split of the corpus a selected sample belongs to."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from schemas.sample import Name
from schemas.table import Table


class Selection(BaseModel):
    """The place of one selected sample; samples of one physical part share it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sample_id: Name
    split: Literal["train", "validation"]


SPLIT = Table("split", Selection, key=("sample_id",))
