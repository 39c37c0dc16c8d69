"""The image of a sample as an endpoint is sent it."""

from typing import Protocol

import numpy as np

from cot_builder.endpoint.request import ImageFile
from cot_builder.storage.images import encode_png
from schemas.sample import Sample

SENT_AS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
"""Formats every endpoint takes as they are; others are sent as PNG."""


class Images(Protocol):
    """Where a sample's image comes from."""

    def original(self, sample: Sample) -> bytes:
        """The published file."""

    def pixels(self, sample: Sample) -> np.ndarray:
        """uint8 (height, width, 3) BGR."""


def query_image(sample: Sample, images: Images) -> ImageFile:
    """The sample as the endpoint sees it: the published bytes where every endpoint takes them, no overlay."""
    digest = sample.image_sha256
    if sample.region is not None:
        digest = f"{digest}/{','.join(map(str, sample.region))}"

    def load() -> tuple[bytes, str]:
        if sample.region is None and sample.image_format in SENT_AS:
            return images.original(sample), SENT_AS[sample.image_format]
        return encode_png(images.pixels(sample)), "image/png"

    return ImageFile(digest, sample.width, sample.height, load)
