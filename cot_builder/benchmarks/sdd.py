"""SDD, the KolektorSDD of electrical commutators, cut in thirds as zero-shot papers use it.

Licence: CC BY-NC-SA 4.0 (as its page states; not checked in a licence file). Archive: ``KolektorSDD.zip``.

Layout::

    kos01/Part0.jpg            grey, 500 x about 1250
    kos01/Part0_label.bmp      some are palette images with index 1 (one also 2): a defect is > 0

Quirks:

- "SDD" in zero-shot papers is not the raw set: each image is cut in three by rows, ``kos01_Part0_0`` to ``_2``,
  and 340 of the 1,197 thirds are the test set: all 54 with a defect and 286 without, a quarter of those. Their names
  are in ``sdd.csv`` beside this file, taken from the public evaluation lists that the published numbers are
  computed on.
- The cutting rule, third i of a height h is rows i*h//3 to (i+1)*h//3 and has a defect if one mask pixel lies in
  it, was worked out here. On the seven real defective images at hand it gives exactly the listed thirds, among
  them one (kos15_Part3) whose defect straddles a cut: both thirds are listed. For the other 45 it is unconfirmed;
  a third that the list and the mask label differently is named in the manifest.
- Images are byte-identical between kos01 and kos26 and between kos27 and kos34, with different labels (383 of
  399 are unique). They are kept, reported, and given one part, so that a split by part does not leak.
"""

import csv
import re
from collections.abc import Iterator, Mapping
from functools import cache, partial
from importlib import resources

from cot_builder.benchmarks.benchmark import Benchmark, Entry, Layout, Listing, Place
from cot_builder.params import PullSet

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
    archive="KolektorSDD.zip",
    sha256="65dc621693418585de9c4467d1340ea7958a6181816f0dc2883a1e8b61f9d4dc",
    published={("train", "normal"): 857, ("test", "normal"): 286, ("test", "anomalous"): 54},
    categories=("commutator",),
    bands=3,
)
TYPE = "defect"
_PATH = re.compile(r"(?:^|/)(?P<key>kos\d+/Part\d+(?P<mask>_label)?\.(?:jpe?g|bmp|png))$", re.IGNORECASE)


def layout(settings: PullSet, _records: Mapping[str, bytes]) -> Layout:
    """KolektorSDD's layout, three samples an image."""
    return Layout(place, partial(entries, compare=settings.source != "synthetic"))


def place(path: str) -> Place | None:
    """Image or mask of a path in KolektorSDD's layout."""
    match = _PATH.search(path)
    return Place("mask" if match["mask"] else "image", match["key"]) if match else None


@cache
def published_thirds() -> dict[str, str]:
    """Name of each third of the published test set (``kos01_Part5_1``) to its label."""
    text = resources.files(__package__).joinpath("sdd.csv").read_text("utf-8")
    return {row["third"]: row["label"] for row in csv.DictReader(text.splitlines())}


def entries(listing: Listing, compare: bool = True) -> Iterator[Entry]:
    """Three samples an image: test where the published list has the third, train where it does not.

    The label is the mask's; a third with a defect is always a test sample. ``compare`` gives each the label
    that the list implies, so that a difference is reported.
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
