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

from cot_builder.benchmarks.benchmark import IMAGE_SUFFIXES, Benchmark, ClassifiedPath, Entry, Files, Layout, Listing
from cot_builder.benchmarks.synthetic.parts import electrics, hardware, textures
from cot_builder.benchmarks.synthetic.rendering import (
    File,
    Part,
    Recipe,
    RenderedPhoto,
    Rendering,
    plan_parts,
    take_photographs,
    to_binary,
)
from cot_builder.params import PullSet, Synthetic
from cot_builder.storage.images import encode_png

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
"""Numbers of normal and anomalous test images by category, as published."""
LABELS: dict[str, tuple[str, ...]] = {
    "scratch": (
        "scratch",
        "scratch_head",
        "scratch_neck",
    ),
    "abrasion": ("rough",),
    "dent": ("poke",),
    "crack": ("crack",),
    "hole": (
        "hole",
        "poke_insulation",
    ),
    "cut": (
        "cut",
        "cut_inner_insulation",
        "cut_outer_insulation",
        "cut_lead",
    ),
    "discolouration": ("color",),
    "print_error": (
        "faulty_imprint",
        "print",
    ),
    "texture_irregularity": (
        "fabric_border",
        "fabric_interior",
        "fold",
    ),
    "foreign_matter": (
        "contamination",
        "metal_contamination",
        "glue",
        "glue_strip",
        "thread",
    ),
    "stain": (
        "oil",
        "liquid",
        "gray_stroke",
    ),
    "broken": (
        "broken",
        "broken_large",
        "broken_small",
        "broken_teeth",
        "damaged_case",
    ),
    "deformation": (
        "bent",
        "bent_lead",
        "bent_wire",
        "squeeze",
        "squeezed_teeth",
        "manipulated_front",
        "thread_side",
        "thread_top",
    ),
    "missing_part": (
        "missing_cable",
        "missing_wire",
    ),
    "misplaced": (
        "misplaced",
        "flip",
        "split_teeth",
    ),
    "wrong_part": (
        "cable_swap",
        "pill_type",
    ),
    "unspecified": (
        "combined",
        "defective",
    ),
}
"""Folder names of the defects, by type of the taxonomy."""
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
    labels=LABELS,
    archive="mvtec_anomaly_detection.tar.xz",
    sha256="cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d",
    published={("train", "normal"): 3629, ("test", "normal"): 467, ("test", "anomalous"): 1258},
    categories=tuple(TEST),
    published_test=TEST,
)
_PATH = re.compile(r"(?:^|/)(?P<key>(?P<category>[^/]+)/(?P<part>train|test|ground_truth)/(?P<type>[^/]+)/[^/]+)$")


def layout(_settings: PullSet, _files: Files) -> Layout:
    """Return the layout. Images in ``good`` are normal; for all others the folder name is the label."""
    return Layout(classify_path, entries)


def classify_path(path: str) -> ClassifiedPath | None:
    """Classify a path as image or mask by the folders of the layout."""
    match = _PATH.search(path)
    if match is None or not path.lower().endswith(IMAGE_SUFFIXES):
        return None
    return ClassifiedPath("mask" if match["part"] == "ground_truth" else "image", match["key"])


def entries(listing: Listing) -> Iterator[Entry]:
    """Yield one sample per image. Its mask is named ``<stem>_mask`` or ``<stem>``, with any suffix."""
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


def render_in_this_layout(benchmark: str, recipes: Mapping[str, Recipe], share: float = 1.0) -> Rendering:
    """Return the rendering of a data set in the layout of MVTec AD.

    Args:
        benchmark: Name of the data set.
        recipes: Recipe of each category.
        share: Side of the images as a share of ``settings.size``.
    """

    def photographs(category: str, settings: Synthetic, seed: int) -> Iterator[RenderedPhoto]:
        recipe = recipes[category]
        numbers: dict[str, int] = {}
        for planned in plan_parts(recipe, settings.parts):
            good = "train/good" if planned.trains else "test/good"
            folder = f"test/{planned.label}" if planned.label else good
            number = numbers[folder] = numbers.get(folder, -1) + 1
            size = round(settings.size * share)
            part = Part(seed, benchmark, category, planned.index, recipe, size, planned.faults)
            yield from take_photographs(part, [f"{category}/{folder}/{number:03d}.png"])

    return Rendering(benchmark, lambda _: list(recipes), photographs, _files)


def _files(category: str, shots: list[RenderedPhoto]) -> list[File]:
    files = []
    for shot in shots:
        files.append((shot.path, encode_png(shot.pixels)))
        if shot.labels:
            _, _, label, name = shot.path.split("/")
            mask = f"{category}/ground_truth/{label}/{name.replace('.png', '_mask.png')}"
            files.append((mask, encode_png(to_binary(shot.mask))))
    return files


RECIPES = {
    "grid": Recipe(
        textures.grid,
        {
            "bent": ("warp",),
            "broken": ("missing",),
            "glue": ("glue",),
            "metal_contamination": ("metal_crumb",),
            "thread": ("fibre",),
        },
        "mat",
        zoom=1.3,
        grey=True,
    ),
    "leather": Recipe(
        textures.leather,
        {"color": ("discolour",), "cut": ("cut",), "fold": ("fold",), "glue": ("glue",), "poke": ("dent",)},
        zoom=1.3,
        spin=0.2,
    ),
    "metal_nut": Recipe(
        hardware.metal_nut, {"bent": ("warp",), "color": ("discolour",), "scratch": ("scratch",)}, "mat", spin=3.0
    ),
    "transistor": Recipe(
        electrics.strip_board,
        {"bent_lead": ("bent",), "cut_lead": ("missing",), "damaged_case": ("chip", "crack")},
        "mat",
        zoom=1.15,
        spin=0.05,
    ),
}
RENDERING = render_in_this_layout(BENCHMARK.name, RECIPES)
