"""Sample: one inspection image of a benchmark. Holds nothing that tells whether it is defective."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.table import Table

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1, max_length=200)]


class Sample(BaseModel):
    """One image, or one region of one, as an inspector meets it.

    The path inside the benchmark is kept with :class:`schemas.supervision.Supervision`, since most
    benchmarks write the label into it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sample_id: Annotated[str, Field(pattern=r"^[a-z0-9_]+/.+/[0-9a-f]{16}$")]
    """``<set>/<category>/<hash of the path>``: stable between runs, silent about the label."""
    source_set: Name
    category: Name
    view: Name
    """Camera or pose; ``default`` where a set has one."""
    part_id: Name
    """Physical part: images of one part never straddle train and validation."""
    split: Literal["train", "test"]
    """The benchmark's own split."""
    width: Annotated[int, Field(gt=0)]
    """Pixels, of the region where one is given."""
    height: Annotated[int, Field(gt=0)]
    channels: Literal[1, 3, 4]
    image_format: Literal["JPEG", "PNG", "BMP", "TIFF", "WEBP"]
    image_sha256: Sha256
    """Of the stored original file."""
    shard: Name
    """Shard file that holds the original bytes, relative to the stage's folder."""
    row: Annotated[int, Field(ge=0)]
    """Row within the shard."""
    region: tuple[int, int, int, int] | None
    """Half-open pixel box of the stored image that this sample is; None is all of it (SDD cuts thirds)."""
    licence: Name


SAMPLE = Table("sample", Sample, key=("sample_id",))
