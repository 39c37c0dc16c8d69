"""The images an expert sees: written once where Label Studio serves them from."""

import os
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from cot_builder.stages.draft import ObservationImages
from cot_builder.storage.images import encode_png
from cot_builder.storage.workspace import SampleImages, Workspace
from schemas.sample import Sample

FOLDER = "review"
"""Below the folder Label Studio serves; its local storage must name a folder below that one."""
SHOWN_AS_THEY_ARE = ("JPEG", "PNG", "WEBP", "BMP")
"""Formats every browser shows."""


class ServedImages:
    """Files named by their content below ``images/review`` of the server's folder, and their addresses."""

    def __init__(self, workspace: Workspace) -> None:
        self.folder = workspace.label_studio / "images" / FOLDER
        self._samples = SampleImages(workspace)
        self._workspace = workspace

    @cached_property
    def _observations(self) -> ObservationImages:
        # Read when asked for: priors are reviewed before anything is drafted.
        return ObservationImages(self._workspace.draft)

    def sample(self, sample: Sample) -> str:
        """Address of the inspected image: the published file, or the region that was cut out of it."""
        if sample.region is None and sample.image_format in SHOWN_AS_THEY_ARE:
            digest, suffix = sample.image_sha256, sample.image_format.lower()
            return self._serve(digest, suffix) or self._write(digest, suffix, self._samples.original(sample))
        png = encode_png(self._samples.pixels(sample))
        digest = sha256(png).hexdigest()
        return self._serve(digest, "png") or self._write(digest, "png", png)

    def observation(self, digest: str) -> str:
        """Address of what a tool returned."""
        return self._serve(digest, "png") or self._write(digest, "png", self._observations.get(digest))

    def _path(self, digest: str, suffix: str) -> Path:
        return self.folder / digest[:2] / f"{digest}.{suffix}"

    def _serve(self, digest: str, suffix: str) -> str | None:
        return self._address(digest, suffix) if self._path(digest, suffix).is_file() else None

    def _write(self, digest: str, suffix: str, data: bytes) -> str:
        path = self._path(digest, suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_bytes(data)
        partial.replace(path)
        return self._address(digest, suffix)

    @staticmethod
    def _address(digest: str, suffix: str) -> str:
        return f"/data/local-files/?d={FOLDER}/{digest[:2]}/{digest}.{suffix}"
