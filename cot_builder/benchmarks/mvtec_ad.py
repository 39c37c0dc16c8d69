"""MVTec AD: 15 categories of objects and textures.

Licence: CC BY-NC-SA 4.0, by MVTec Software GmbH (``license.txt`` in each category).
Archive: ``mvtec_anomaly_detection.tar.xz``, 5.26 GB.

Layout, shared by MPDD and DTD-Synthetic::

    <category>/train/good/000.png
    <category>/test/good/000.png
    <category>/test/<type>/000.png
    <category>/ground_truth/<type>/000_mask.png      0 or 255

Quirks: grid, screw and zipper have a single channel; sizes run from 700 to 1024 px.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Literal

from cot_builder.benchmarks.benchmark import IMAGE_SUFFIXES, Benchmark, Entry, Layout, Listing, Place
from cot_builder.params import PullSet

TEST = {
    "bottle": (20, 63),
    "cable": (58, 92),
    "capsule": (23, 109),
    "carpet": (28, 89),
    "grid": (21, 57),
    "hazelnut": (40, 70),
    "leather": (32, 92),
    "metal_nut": (22, 93),
    "pill": (26, 141),
    "screw": (41, 119),
    "tile": (33, 84),
    "toothbrush": (12, 30),
    "transistor": (60, 40),
    "wood": (19, 60),
    "zipper": (32, 119),
}
"""Normal and anomalous test images by category, as published."""
BENCHMARK = Benchmark(
    name="mvtec_ad",
    title="MVTec AD",
    licence="CC BY-NC-SA 4.0",
    redistribution="allowed",
    clause="CC BY-NC-SA 4.0, section 2(a)(1): may be shared, for non-commercial purposes, with attribution "
    "and under the same licence",
    attribution="MVTec AD, (c) MVTec Software GmbH, CC BY-NC-SA 4.0",
    citation="Bergmann, Fauser, Sattlegger, Steger: MVTec AD, a comprehensive real-world dataset for unsupervised "
    "anomaly detection. CVPR 2019",
    homepage="https://www.mvtec.com/company/research/datasets/mvtec-ad",
    archive="mvtec_anomaly_detection.tar.xz",
    sha256="cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d",
    published={("train", "normal"): 3629, ("test", "normal"): 467, ("test", "anomalous"): 1258},
    categories=tuple(TEST),
    published_test=TEST,
)
_PATH = re.compile(r"(?:^|/)(?P<key>(?P<category>[^/]+)/(?P<part>train|test|ground_truth)/(?P<type>[^/]+)/[^/]+)$")


def layout(_settings: PullSet, _records: Mapping[str, bytes]) -> Layout:
    """MVTec's layout; images are normal in ``good``, and the folder's name is the type elsewhere."""
    return Layout(place, entries)


def place(path: str) -> Place | None:
    """Image or mask of a path in MVTec's layout."""
    match = _PATH.search(path)
    if match is None or not path.lower().endswith(IMAGE_SUFFIXES):
        return None
    return Place("mask" if match["part"] == "ground_truth" else "image", match["key"])


def entries(listing: Listing) -> Iterator[Entry]:
    """One sample an image; ``<stem>_mask`` or ``<stem>`` is its mask, with any suffix."""
    masks: dict[str, str] = {}
    for key in sorted(listing.masks):
        masks.setdefault(re.sub(r"_mask$", "", key.rpartition(".")[0]), key)
    for key in sorted(listing.images):
        category, split, kind, name = key.split("/")
        if kind == "good":
            yield Entry(key, category, _split(split), "normal")
            continue
        stem = f"{category}/ground_truth/{kind}/{PurePosixPath(name).stem}"
        mask = masks.get(stem, f"{stem}_mask.png") if split == "test" else None
        yield Entry(key, category, _split(split), "anomalous", kind, mask)


def _split(name: str) -> Literal["train", "test"]:
    return "train" if name == "train" else "test"
