"""KolektorSDD ("SDD"): electrical commutators, cut in thirds as in zero-shot papers.

Licence: CC BY-NC-SA 4.0 (as its page states; not checked in a licence file). Archive: ``KolektorSDD.zip``.

Layout::

    kos01/Part0.jpg            grey, 500 x about 1250
    kos01/Part0_label.bmp      some are palette images with index 1 (one also 2): a defect is > 0

Quirks:

- "SDD" in zero-shot papers is not the raw set. Each image is cut in three by rows, ``kos01_Part0_0`` to ``_2``.
  340 of the 1,197 thirds are the test set: all 54 with a defect, and 286 without, which is a quarter of those.
  ``sdd.csv`` next to this file lists them. It is taken from the public evaluation lists that the published figures are
  computed on.
- The cutting rule is our own reconstruction: third i of an image of height h is rows i*h//3 to (i+1)*h//3, and has a
  defect if it contains a mask pixel. On the seven real defective images available to us it gives exactly the listed
  thirds. One of them (kos15_Part3) has a defect across a cut, and both thirds are listed. For the other 45 images the
  rule is unconfirmed. Thirds with different labels in the list and the mask are named in the manifest.
- Images are byte-identical between kos01 and kos26 and between kos27 and kos34, with different labels (383 of
  399 are unique). They are kept, reported, and given one part, so that a split by part does not leak.
"""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from importlib import resources
from itertools import pairwise

import cv2
import numpy as np
from PIL import Image

from cot_builder.benchmarks.benchmark import Benchmark, ClassifiedPath, Entry, Files, Layout, Listing
from cot_builder.benchmarks.synthetic.camera import View, find_changed_pixels
from cot_builder.benchmarks.synthetic.defects import crack_along
from cot_builder.benchmarks.synthetic.parts import electrics
from cot_builder.benchmarks.synthetic.rendering import (
    CONTRASTS,
    Fault,
    File,
    Part,
    Recipe,
    RenderedPhoto,
    Rendering,
    Shot,
    develop,
    encode_jpg,
    random_numbers,
)
from cot_builder.params import PullSet, Synthetic

LABELS: dict[str, tuple[str, ...]] = {
    "crack": ("defect",),
}
"""The only label of the data set, by type of the taxonomy."""
BENCHMARK = Benchmark(
    name="sdd",
    title="KolektorSDD",
    licence="CC BY-NC-SA 4.0",
    redistribution="unknown",
    clause="its page states CC BY-NC-SA 4.0, no licence file was checked",
    attribution="KolektorSDD, (c) Kolektor Group d.o.o. and ViCoS, University of Ljubljana",
    citation="Tabernik, Šela, Skvarč, Skočaj: Segmentation-based deep-learning approach for surface-defect detection. "
    "Journal of Intelligent Manufacturing, 2019",
    homepage="https://www.vicos.si/resources/kolektorsdd/",
    labels=LABELS,
    archive="KolektorSDD.zip",
    sha256="65dc621693418585de9c4467d1340ea7958a6181816f0dc2883a1e8b61f9d4dc",
    published={("train", "normal"): 857, ("test", "normal"): 286, ("test", "anomalous"): 54},
    categories=("commutator",),
    bands=3,
)
TYPE = "defect"
_PATH = re.compile(r"(?:^|/)(?P<key>kos\d+/Part\d+(?P<mask>_label)?\.(?:jpe?g|bmp|png))$", re.IGNORECASE)


def layout(settings: PullSet, _files: Files) -> Layout:
    """Return the layout, with three samples per image."""
    return Layout(classify_path, partial(entries, compare=settings.source != "synthetic"))


def classify_path(path: str) -> ClassifiedPath | None:
    """Classify a path as image or mask by its name."""
    match = _PATH.search(path)
    return ClassifiedPath("mask" if match["mask"] else "image", match["key"]) if match else None


@cache
def published_thirds() -> dict[str, str]:
    """Return the label of each third of the published test set, by name (``kos01_Part5_1``)."""
    text = resources.files(__package__).joinpath("sdd.csv").read_text("utf-8")
    return {row["third"]: row["label"] for row in csv.DictReader(text.splitlines())}


def entries(listing: Listing, compare: bool = True) -> Iterator[Entry]:
    """Yield three samples per image. Thirds in the published list are test samples, all others train samples.

    The mask gives the label, and a third with a defect is always a test sample. With ``compare``, each sample also gets
    the label that the list implies, so that differences are reported.
    """
    masks = {key.rpartition("_label.")[0].lower(): key for key in listing.masks}
    for image in sorted(listing.images):
        stem = image.rpartition(".")[0]
        mask = masks.get(stem.lower(), f"{stem}_label.bmp")
        for band in range(BENCHMARK.bands):
            name = f"{stem.replace('/', '_')}_{band}"
            yield Entry(
                image=image,
                category=BENCHMARK.categories[0],
                split="test" if name in published_thirds() else "train",
                label=None,
                raw_type=TYPE,
                mask=mask,
                part=stem.partition("/")[0],
                band=band,
                listed=("normal" if published_thirds().get(name) != "anomalous" else "anomalous") if compare else None,
            )


TWINS = {"kos26": "kos01", "kos34": "kos27"}
"""Commutators with the same images as another one, but with other annotations."""
WITH_QUIRKS = ("kos01", "kos26", "kos15", "kos03", "kos27", "kos34", "kos20")
"""Commutators that show a quirk of the data set. They are rendered first, before the others by number."""


def _commutators(settings: Synthetic) -> list[str]:
    others = [name for name in (f"kos{number:02d}" for number in range(1, 51)) if name not in WITH_QUIRKS]
    return [*WITH_QUIRKS, *others][: settings.parts]


def _photographs(name: str, settings: Synthetic, seed: int) -> Iterator[RenderedPhoto]:
    """Render the photographs of a commutator, with defects in the thirds that the published list marks."""
    harmed: dict[str, list[int]] = {}
    good: list[str] = []
    for third, label in published_thirds().items():
        commutator, part, band = third.split("_")
        if commutator == name and label == "anomalous":
            harmed.setdefault(part, []).append(int(band))
        elif commutator == name and part not in good:
            good.append(part)
    for part in sorted({*harmed, *[part for part in good if part not in harmed][:1]}):
        yield _photograph(name, part, harmed.get(part, []), settings, seed)


def _photograph(name: str, part: str, bands: list[int], settings: Synthetic, seed: int) -> RenderedPhoto:
    shown = TWINS.get(name, name)
    rng = random_numbers(seed, BENCHMARK.name, shown, part)
    # The scans are 500 px wide. `size` is the longest side of a sample, which is a third of a scan.
    width = min(500, round(settings.size * 500 / 512))
    height = round(width * float(rng.uniform(2.5, 2.55)))
    clean = electrics.commutator(rng, width, height)
    surfaces = [clean]
    number = int(shown[3:])
    for k in range((2 if name == "kos20" else 1) if bands else 0):
        surface = surfaces[-1].copy()
        strength = CONTRASTS[number % 3] * 0.6 + 0.4
        if len(bands) > 1:
            # Draw a crack across the cut, because the published test set lists both thirds.
            start = np.array([width * rng.uniform(0.35, 0.65), height * (max(bands) / 3 - 0.03)])
            turn, length = np.pi / 2 + rng.uniform(-0.3, 0.3), height * 0.08
        else:
            row = height * (bands[0] + 0.32 + 0.3 * k + rng.uniform(0, 0.1)) / 3
            left = rng.random() < 0.5
            start = np.array([0.0 if left else width - 1.0, row])
            turn, length = (0.0 if left else np.pi) + rng.uniform(-0.15, 0.15), width * rng.uniform(0.14, 0.4)
        crack_along(surface, rng, strength, start, float(turn), float(length), widest=3)
        surfaces.append(surface)
    view = View(width, height, 0, 0, 1, (0, 0), 0, 1, 1, 0, 0.55, 2.5, "table", int(rng.integers(1 << 30)))
    images = [cv2.GaussianBlur(surface.albedo, (0, 0), view.blur) for surface in surfaces]
    faults = (Fault(TYPE, "crack", 1.0),) * (len(images) - 1)
    seen = [find_changed_pixels(before, after) for before, after in pairwise(images)]
    recipe = Recipe(None, {TYPE: ("crack",)}, grey=True)
    commutator_part = Part(seed, BENCHMARK.name, BENCHMARK.categories[0], number, recipe, width, faults)
    shot = develop(f"{name}/{part}.jpg", commutator_part, Shot(images[0], images[-1], seen), view)
    if name in TWINS and bands:
        return replace(shot, mask=cv2.dilate(shot.mask, np.ones((5, 5), np.uint8)))
    return shot


def _files(_name: str, shots: list[RenderedPhoto]) -> list[File]:
    files = []
    for shot in shots:
        files.append((shot.path, encode_jpg(shot.pixels)))
        files.append((shot.path.replace(".jpg", "_label.bmp"), _label_bmp(shot.mask)))
    return files


def _label_bmp(mask: np.ndarray) -> bytes:
    """Encode a mask as BMP: a palette image with indices from 1 if there is a defect, otherwise a black grey image."""
    image = Image.fromarray(mask)
    if mask.any():
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, *[0] * (253 * 3)])
    file = io.BytesIO()
    image.save(file, "BMP")
    return file.getvalue()


RENDERING = Rendering(BENCHMARK.name, _commutators, _photographs, _files, unit="commutators")
