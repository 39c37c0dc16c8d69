"""MPDD, metal parts defect detection: 6 categories of metal parts.

Licence: CC BY-NC-SA 4.0. Archive: download it manually from the link in the authors' README; no checksum is published.
Layout: that of MVTec AD (see ``mvtec_ad.py``).

Published by category (train / good / anomalous): bracket_black 289/32/47, bracket_brown 185/26/51,
bracket_white 110/30/30, connector 128/30/14, metal_plate 54/26/71, tubes 122/32/69.

Quirk: the only defect type of tubes, flattening, is in a folder named ``anomalous``.
"""

from cot_builder.benchmarks.benchmark import Benchmark
from cot_builder.benchmarks.mvtec_ad import classify_path, layout, render_in_this_layout
from cot_builder.benchmarks.synthetic.parts import hardware
from cot_builder.benchmarks.synthetic.rendering import Recipe

__all__ = ["BENCHMARK", "RENDERING", "classify_path", "layout"]

TEST = {
    "bracket_black": (32, 47),
    "bracket_brown": (26, 51),
    "bracket_white": (30, 30),
    "connector": (30, 14),
    "metal_plate": (26, 71),
    "tubes": (32, 69),
}
"""Numbers of normal and anomalous test images by category, as published."""
LABELS: dict[str, tuple[str, ...]] = {
    "scratch": ("scratches",),
    "hole": ("hole",),
    "discolouration": ("defective_painting",),
    "corrosion": (
        "major_rust",
        "total_rust",
    ),
    "deformation": (
        "flattening",
        "anomalous",
    ),
    "wrong_part": ("parts_mismatch",),
    "unspecified": (
        "bend_and_parts_mismatch",
        "bad",
    ),
}
"""Folder names of the defects, by type of the taxonomy."""
BENCHMARK = Benchmark(
    name="mpdd",
    title="MPDD",
    licence="CC BY-NC-SA 4.0",
    redistribution="allowed",
    clause="CC BY-NC-SA 4.0, section 2(a)(1): may be shared, for non-commercial purposes, with attribution "
    "and under the same licence",
    attribution="MPDD, (c) S. Jezek and others, Brno University of Technology, CC BY-NC-SA 4.0",
    citation="Jezek, Jonak, Burget, Dvorak, Skotak: Deep learning-based defect detection of metal parts: evaluating "
    "current methods in complex conditions. ICUMT 2021",
    homepage="https://github.com/stepanje/MPDD",
    labels=LABELS,
    published={("train", "normal"): 888, ("test", "normal"): 176, ("test", "anomalous"): 282},
    categories=tuple(TEST),
    published_test=TEST,
)
RECIPES = {
    "bracket_black": Recipe(hardware.bracket_black, {"hole": ("hole",), "scratches": ("scratch",)}, "table", spin=1.5),
    "metal_plate": Recipe(
        hardware.metal_plate,
        {"major_rust": ("rust",), "scratches": ("scratch",), "total_rust": ("wide_rust",)},
        "table",
        spin=0.12,
    ),
    "tubes": Recipe(hardware.tubes, {"flattening": ("flatten",)}, "belt", spin=0.3),
}
RENDERING = render_in_this_layout(BENCHMARK.name, RECIPES)
