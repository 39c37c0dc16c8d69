"""NormalcyPrior: what a defect-free part of a category looks like from a view."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from schemas.sample import Name, Sha256
from schemas.table import Table


class NormalcyPrior(BaseModel):
    """Facts measured on training-split normal images only, and a text built from them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prior_id: Name
    """``<source_set>/<category>/<view>``."""
    source_set: Name
    category: Name
    view: Name
    text: Annotated[str, Field(min_length=40, max_length=4000)]
    """What a student is told. Editable: an expert's wording replaces it."""
    facts: str
    """JSON object of the measured facts the text was built from."""
    image_count: Annotated[int, Field(ge=1)]
    image_sha256: list[Sha256]
    """The normal images it was measured on."""
    author: Name
    """``measured`` for the built-in text, otherwise the model; ``expert`` where one has edited it."""
    version: Name
    """Of what made the text; where an expert edited it, author and version of the text they had before them."""


PRIOR = Table("prior", NormalcyPrior, key=("prior_id",))
