"""Tests of category names in words, and of their articles."""

import pytest

from cot_builder.benchmarks.real_iad import BENCHMARK
from cot_builder.inspection.appearance import Scene
from cot_builder.inspection.names import category_name, choose_article, spell_out
from cot_builder.inspection.normalcy import describe_normalcy
from cot_builder.teacher import phrasing


@pytest.mark.parametrize(
    "category, with_number, without_number",
    [
        ("ball_screw", "ball screw", "ball screw"),
        ("Woven_001", "woven 001", "woven"),
        ("MetalNuts", "metal nuts", "metal nuts"),
        ("pcb1", "pcb1", "pcb"),
        ("part-12", "part-12", "part"),
        ("2024-05-12", "2024-05-12", "2024-05-12"),
        ("555_timer", "555 timer", "555 timer"),
        ("7", "7", "7"),
    ],
)
def test_category_in_words_with_and_without_number(category: str, with_number: str, without_number: str) -> None:
    assert (spell_out(category), category_name(category)) == (with_number, without_number)


AN = {
    "audiojack", "end_cap", "eraser", "e_clip", "o-ring", "x_ring", "lcd", "smd", "rj45_plug", "n95_mask", "urn",
    "umbrella", "uninsulated wire", "unimportant part", "hour glass", "8_pin", "11_pin", "18_pin", "80_pin", "olive",
    "only", "a4_tray", "assembly",
}  # fmt: skip
A = {
    "usb", "usb_adaptor", "u_block", "unit", "universal joint", "used_part", "utensil", "urethane_seal", "uv_lamp",
    "ukulele", "european_plug", "one-way valve", "ewer", "pcb", "screw", "nut", "honeycomb", "10_mm_bolt", "555_timer",
    "180_pin", "zipper",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(AN | A | set(BENCHMARK.categories)))
def test_article_follows_the_sound(name: str) -> None:
    said = category_name(name)
    right = "an" if name in AN else "a"
    assert choose_article(said) == right
    facts = {"images": 1, "colours": {"grey": 1}, "backgrounds": {}, "brightness": _one(90), "contrast": _one(3),
             "detail": _one(0.01), "symmetry_x": _one(0), "symmetry_y": _one(0), "coherence": _one(0)}  # fmt: skip
    assert describe_normalcy(name, "default", facts).startswith(f"{right.capitalize()} {said} ")
    scene = Scene(1.0, "olive", "grey", fills_frame=False, on_background=False, detail=0.05)
    texts = [phrasing.scene(phrasing.Random(seed), said, scene).lower() for seed in range(8)]
    other = "a" if right == "an" else "an"
    assert not any(f" {other} {said}" in f" {text}" for text in texts)
    assert any(f" {right} {said}" in f" {text}" for text in texts)


def _one(value: float) -> dict[str, float]:
    return {"median": value, "least": value, "greatest": value, "images": 1}
