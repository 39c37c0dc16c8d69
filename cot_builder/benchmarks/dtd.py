"""DTD-Synthetic: 12 textures of the Describable Textures Dataset with synthetic defects.

Licence: none is stated, so redistribution is unknown. Archive: download it manually from the Drive folder that the
README of AnomalyCLIP links to; no checksum is published.

Layout: that of MVTec AD (see ``mvtec_ad.py``) with ``good`` and ``bad``. Quirk: masks and images have different names.
They are paired by sort order within a texture.
"""

from collections.abc import Iterator
from dataclasses import replace

from cot_builder.benchmarks import mvtec_ad
from cot_builder.benchmarks.benchmark import Benchmark, Entry, Files, Layout, Listing
from cot_builder.benchmarks.mvtec_ad import classify_path, render_in_this_layout
from cot_builder.benchmarks.synthetic.parts import textures
from cot_builder.benchmarks.synthetic.rendering import Recipe
from cot_builder.params import PullSet

TEST = {
    "Blotchy_099": (20, 80),
    "Fibrous_183": (20, 80),
    "Marbled_078": (20, 80),
    "Matted_069": (20, 79),
    "Mesh_114": (36, 80),
    "Perforated_037": (20, 80),
    "Stratified_154": (20, 80),
    "Woven_001": (30, 70),
    "Woven_068": (51, 79),
    "Woven_104": (20, 80),
    "Woven_125": (20, 79),
    "Woven_127": (80, 80),
}
"""Numbers of normal and anomalous test images by category, as published."""
LABELS: dict[str, tuple[str, ...]] = {
    "texture_irregularity": ("bad",),
}
"""The only label of the data set, by type of the taxonomy."""
BENCHMARK = Benchmark(
    name="dtd",
    title="DTD-Synthetic",
    licence="none stated",
    redistribution="unknown",
    clause="no licence is stated",
    attribution="DTD-Synthetic, (c) T. Aota and others",
    citation="Aota, Tong, Okatani: Zero-shot versus many-shot: unsupervised texture anomaly detection. WACV 2023",
    homepage="https://github.com/zqhang/AnomalyCLIP",
    labels=LABELS,
    published={("test", "normal"): 357, ("test", "anomalous"): 947},
    categories=tuple(TEST),
    published_test=TEST,
)


def layout(_settings: PullSet, _files: Files) -> Layout:
    """Return the layout of MVTec AD, with masks paired by sort order if their names do not match."""
    return Layout(classify_path, entries)


def entries(listing: Listing) -> Iterator[Entry]:
    """Yield samples as for MVTec AD. If names of masks do not match but their number does, pair them by sort order."""
    found = list(mvtec_ad.entries(listing))
    wanted: dict[str, list[str]] = {}
    for entry in found:
        if entry.mask:
            wanted.setdefault(_folder(entry.mask), []).append(entry.mask)
    there: dict[str, list[str]] = {}
    for key in sorted(listing.masks):
        there.setdefault(_folder(key), []).append(key)
    renamed: dict[str, str] = {}
    for folder, names in wanted.items():
        masks = there.get(folder, [])
        if len(names) == len(masks) and set(names) != set(masks):
            renamed |= dict(zip(names, masks, strict=True))
    for entry in found:
        yield replace(entry, mask=renamed.get(entry.mask, entry.mask)) if entry.mask else entry


def _folder(key: str) -> str:
    return key.rpartition("/")[0]


RECIPES = {
    "Marbled_078": Recipe(textures.marbled, {"bad": ("scratch", "stain", "crack")}, zoom=1.3, spin=0.1),
    "Perforated_037": Recipe(textures.perforated, {"bad": ("missing", "warp", "discolour")}, zoom=1.3, spin=0.1),
    "Woven_001": Recipe(textures.woven, {"bad": ("warp", "fibre", "cut", "discolour")}, zoom=1.3, spin=0.1),
}
RENDERING = render_in_this_layout(BENCHMARK.name, RECIPES, share=0.75)
