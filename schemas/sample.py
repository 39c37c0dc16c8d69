"""Sample: one inspection image of a benchmark. No field tells whether it is defective."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.table import Table

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1, max_length=200)]


class Sample(BaseModel):
    """One image, or one region of an image, that an inspector is shown.

    The path inside the benchmark is stored in :class:`schemas.supervision.Supervision`, because most benchmarks
    write the label into it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sample_id: Annotated[str, Field(pattern=r"^[a-z0-9_]+/.+/[0-9a-f]{16}$")]
    """``<set>/<category>/<hash of the path>``. It is the same in every run and does not reveal the label."""
    source_set: Name
    category: Name
    view: Name
    """Camera or pose; ``default`` if the set has only one."""
    part_id: Name
    """Physical part. All images of a part are in the same split of the corpus."""
    split: Literal["train", "test"]
    """Split of the benchmark."""
    width: Annotated[int, Field(gt=0)]
    """Width in pixels, of the region if there is one."""
    height: Annotated[int, Field(gt=0)]
    """Height in pixels, of the region if there is one."""
    channels: Literal[1, 3, 4]
    image_format: Literal["JPEG", "PNG", "BMP", "TIFF", "WEBP"]
    image_sha256: Sha256
    """Hash of the stored original file."""
    shard: Name
    """Shard file with the original bytes, relative to the folder of the stage."""
    row: Annotated[int, Field(ge=0)]
    """Row within the shard."""
    region: tuple[int, int, int, int] | None
    """Part of the stored image that is this sample, as a half-open pixel box (SDD cuts images in thirds); None for
    the whole image."""
    licence: Name


SAMPLE = Table("sample", Sample, key=("sample_id",))
