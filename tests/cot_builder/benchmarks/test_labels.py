"""Tests of the mapping from published labels and own words to types."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cot_builder.benchmarks.labels import list_labels, map_label
from cot_builder.benchmarks.table import load_benchmarks
from schemas import taxonomy
from schemas.errors import IndusCotError

# Transcribed from the folders and annotation files of the data sets, independently of their modules.
MVTEC_AD = {
    "bottle": "broken_large broken_small contamination",
    "cable": "bent_wire cable_swap combined cut_inner_insulation cut_outer_insulation missing_cable missing_wire "
    "poke_insulation",
    "capsule": "crack faulty_imprint poke scratch squeeze",
    "carpet": "color cut hole metal_contamination thread",
    "grid": "bent broken glue metal_contamination thread",
    "hazelnut": "crack cut hole print",
    "leather": "color cut fold glue poke",
    "metal_nut": "bent color flip scratch",
    "pill": "color combined contamination crack faulty_imprint pill_type scratch",
    "screw": "manipulated_front scratch_head scratch_neck thread_side thread_top",
    "tile": "crack glue_strip gray_stroke oil rough",
    "toothbrush": "defective",
    "transistor": "bent_lead cut_lead damaged_case misplaced",
    "wood": "color combined hole liquid scratch",
    "zipper": "broken_teeth combined fabric_border fabric_interior rough split_teeth squeezed_teeth",
}
VISA = {
    "candle": "Chunk Of Wax Missing|Damaged Corner of Packaging|weird candle wick|Different Colour Spot|"
    "Extra Wax in Candle|Foreign Particals on Candle|Wax Melded out of the candle|Other",
    "capsules": "Bubble|Discolor|Scratch|Leak|Misshape",
    "cashew": "Burnt|Corner or Edge Breakage|Different Colour Spot|Middle Breakage|Small Holes|Small Scratches|"
    "Stuck Together|Same Colour Spot|Other",
    "chewinggum": "Chunk of gum missing|Corner Missing|Scratches|Similar Colour Spot|Small Cracks|Other",
    "fryum": "Burnt|Corner or Edge Breakage|Different Colour Spot|Fryum Stuck Together|Middle Breakage|"
    "Similar Colour Spot|Small Scratches|Other",
    "macaroni1": "Chip Around Edge And Corner|Different Colour Spot|Middle Breakage|Similar Colour Spot|Small Cracks|"
    "Small Scratches|Other",
    "macaroni2": "Breakage down the middle|Color spot similar to the Object|Different Color spot|"
    "Small chip around edge|Small Cracks|Small Scratches|Other",
    "pcb1": "Bent|Melt|Scratch|Missing",
    "pcb2": "Bent|Melt|Scratch|Missing",
    "pcb3": "Bent|Melt|Scratch|Missing",
    "pcb4": "Burnt|Scratch|Missing|Damage|Extra|Wrong Place|Dirt",
    "pipe_fryum": "Burnt|Corner And Edge Breakage|Different Colour Spot|Middle Breakage|Similar Colour Spot|"
    "Small Scratches|Stuck Together|Small Cracks|Other",
}
MPDD = {
    "bracket_black": "hole scratches",
    "bracket_brown": "bend_and_parts_mismatch parts_mismatch",
    "bracket_white": "defective_painting scratches",
    "connector": "parts_mismatch",
    "metal_plate": "major_rust scratches total_rust",
    "tubes": "flattening",
}
REAL_IAD = {
    "AK": "pit",
    "BX": "deformation",
    "CH": "abrasion",
    "HS": "scratch",
    "PS": "broken",
    "QS": "missing_part",
    "YW": "foreign_matter",
    "ZW": "stain",
}
PUBLISHED = [
    *(("mvtec_ad", label) for types in MVTEC_AD.values() for label in types.split()),
    *(("visa", label) for types in VISA.values() for label in types.split("|")),
    *(("visa", label.lower()) for types in VISA.values() for label in types.split("|")),
    *(("mpdd", label) for types in MPDD.values() for label in types.split()),
    *(("real_iad", label) for label in REAL_IAD),
    ("dtd", "bad"),
    ("sdd", "defect"),
    ("visa", "cracked"),
    ("mpdd", "bad"),
]

types = st.sampled_from(taxonomy.leaves())


@pytest.mark.parametrize(("benchmark", "label"), sorted(set(PUBLISHED)))
def test_every_published_label_maps_to_a_leaf(benchmark: str, label: str) -> None:
    assert map_label(benchmark, label) in taxonomy.leaves()


def test_modules_list_only_published_labels() -> None:
    assert set(list_labels("mvtec_ad")) == {label for b, label in PUBLISHED if b == "mvtec_ad"}
    assert set(list_labels("real_iad")) == set(REAL_IAD)


@pytest.mark.parametrize(("code", "name"), REAL_IAD.items())
def test_real_iad_codes(code: str, name: str) -> None:
    assert map_label("real_iad", code) == name


def test_labels_are_unique_in_a_data_set() -> None:
    for name, module in load_benchmarks().items():
        labels = [label for labels in module.BENCHMARK.labels.values() for label in labels]
        listed = [label.casefold().replace("_", " ") for label in labels]
        assert sorted(set(listed)) == sorted(listed), name


def test_combined_labels() -> None:
    assert map_label("visa", "different colour spot,similar colour spot") == "discolouration"
    assert map_label("visa", "burnt, corner or edge breakage,middle breakage") == "unspecified"
    with pytest.raises(IndusCotError, match=r"'zonk' \(in 'burnt,zonk'\) of visa"):
        map_label("visa", "burnt,zonk")


@pytest.mark.parametrize("label", ["Missing part", "missing-part", " MISSING_PART ", "qs", "Missing  wire"])
def test_own_data_accepts_spellings_of_labels(label: str) -> None:
    assert map_label("folder", label) == "missing_part"


def test_ambiguous_labels_are_unspecified() -> None:
    assert {map_label("folder", word) for word in ("bad", "defect", "Anomaly")} == {"unspecified"}


@given(types)
def test_own_data_accepts_type_names(name: str) -> None:
    assert map_label("folder", name) == name


@pytest.mark.parametrize("label", ["", " ", ",", "OK", "good", "scratchy"])
def test_unknown_label_is_rejected(label: str) -> None:
    with pytest.raises(IndusCotError) as caught:
        map_label("real_iad", label)
    assert f"{label.strip()!r} of real_iad" in str(caught.value)
    assert "cot_builder/benchmarks/real_iad.py" in str(caught.value)
    assert "schemas/taxonomy.yaml" in str(caught.value)


def test_unknown_data_set_is_rejected() -> None:
    with pytest.raises(IndusCotError, match=r"no 'mvtec'.*mvtec_ad"):
        map_label("mvtec", "scratch")
