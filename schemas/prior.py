"""NormalcyPrior: what a defect-free part of a category looks like from a view."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from schemas.sample import Name, Sha256
from schemas.table import Table


class NormalcyPrior(BaseModel):
    """Facts measured on normal images of the training split, and a text built from these facts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prior_id: Name
    """``<source_set>/<category>/<view>``."""
    source_set: Name
    category: Name
    view: Name
    text: Annotated[str, Field(min_length=40, max_length=4000)]
    """Text that the student reads. An expert may replace it."""
    facts: str
    """JSON object of the measured facts that the text is built from."""
    image_count: Annotated[int, Field(ge=1)]
    image_sha256: list[Sha256]
    """Hashes of the normal images that were measured."""
    author: Name
    """``measured`` for the built-in text, ``expert`` for a text that an expert edited, otherwise the model's name."""
    version: Name
    """Version of the author. For an expert's text: author and version of the text that the expert edited."""


PRIOR = Table("prior", NormalcyPrior, key=("prior_id",))
