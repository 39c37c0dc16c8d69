"""Prepare the image of a sample for an endpoint."""

from typing import Protocol

import numpy as np

from cot_builder.endpoint.request import ImageFile
from cot_builder.storage.images import encode_png
from schemas.sample import Sample

SENT_UNCHANGED = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
"""Media type by format, for formats that every endpoint accepts; images of other formats are sent as PNG."""


class ImageSource(Protocol):
    """Reads the images of samples."""

    def original(self, sample: Sample) -> bytes:
        """Return the bytes of the published file."""

    def pixels(self, sample: Sample) -> np.ndarray:
        """Return the decoded image, uint8 (height, width, 3) BGR."""


def make_query_image(sample: Sample, images: ImageSource) -> ImageFile:
    """Return the sample's image without an overlay: the published bytes where every endpoint accepts the format."""
    digest = sample.image_sha256
    if sample.region is not None:
        digest = f"{digest}/{','.join(map(str, sample.region))}"

    def load() -> tuple[bytes, str]:
        if sample.region is None and sample.image_format in SENT_UNCHANGED:
            return images.original(sample), SENT_UNCHANGED[sample.image_format]
        return encode_png(images.pixels(sample)), "image/png"

    return ImageFile(digest, sample.width, sample.height, load)
