"""A new data set in one file: it is pulled, typed by its labels, licensed, and named in messages."""

import json
from pathlib import Path

import polars as pl
import pytest

from tests.house.product_copy import copy_with, run_python

pytestmark = pytest.mark.slow

TILES = '''"""Tiles: photographs of ceramic tiles with a mask beside each.

Layout: ``<kind>/Imgs/<name>.jpg`` and, of the same name, ``<name>.png``; ``MT_Free`` is free of defects.
"""

import re

from cot_builder.benchmarks.benchmark import Benchmark, ClassifiedPath, Entry, Layout
from cot_builder.benchmarks.synthetic.parts import textures
from cot_builder.benchmarks.synthetic.rendering import (
    Part,
    Recipe,
    Rendering,
    encode_jpg,
    plan_parts,
    take_photographs,
    to_binary,
)
from cot_builder.storage.images import encode_png

BENCHMARK = Benchmark(
    name="tiles",
    title="Magnetic Tiles",
    licence="CC BY-SA 4.0",
    redistribution="allowed",
    clause="CC BY-SA 4.0, section 2(a)(1)",
    attribution="The makers of the tiles",
    citation="Tiles, 2018",
    homepage="https://example.org/tiles",
    labels={"pit": ("MT_Blowhole", "thread"), "abrasion": ("MT_Fray", "scoured")},
    published={("test", "normal"): 952, ("test", "anomalous"): 392},
    categories=("tile",),
)
_PATH = re.compile(r"(?:^|/)(?P<key>(?P<kind>MT_[^/]+)/Imgs/[^/]+[.](?P<suffix>jpg|png))$")


def classify_path(path):
    match = _PATH.search(path)
    return ClassifiedPath("image" if match["suffix"] == "jpg" else "mask", match["key"]) if match else None


def layout(_settings, _files):
    return Layout(classify_path, _entries)


def _entries(listing):
    for key in sorted(listing.images):
        kind = key.partition("/")[0]
        if kind == "MT_Free":
            yield Entry(key, "tile", "test", "normal")
        else:
            yield Entry(key, "tile", "test", "anomalous", kind, key.replace(".jpg", ".png"))


_RECIPE = Recipe(textures.leather, {"MT_Blowhole": ("pit",), "MT_Fray": ("abrasion",)}, zoom=1.3)


def _photographs(category, settings, seed):
    for planned in plan_parts(_RECIPE, settings.parts):
        part = Part(seed, "tiles", category, planned.index, _RECIPE, settings.size, planned.faults)
        yield from take_photographs(part, [f"{planned.label or 'MT_Free'}/Imgs/{planned.index:03d}.jpg"])


def _files(_category, shots):
    for shot in shots:
        yield shot.path, encode_jpg(shot.pixels)
        if shot.labels:
            yield shot.path.replace(".jpg", ".png"), encode_png(to_binary(shot.mask))


RENDERING = Rendering("tiles", lambda _: ["tile"], _photographs, lambda name, shots: list(_files(name, shots)))
'''
NEW = "pull.new={benchmark: tiles, source: %s, role: evaluate}"
SMALL = ("--set", "synthetic.parts=6", "--set", "synthetic.size=128")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_with(tmp_path_factory.mktemp("tree"), {})


@pytest.fixture(scope="module")
def keys_before(tree: Path) -> dict[str, str]:
    return compute_answering_keys(tree)


@pytest.fixture(scope="module")
def pulled(tree: Path, keys_before: dict[str, str]) -> str:
    """Add the file of the data set to the tree and pull it; return the output of `pull`."""
    (tree / "cot_builder/benchmarks/tiles.py").write_text(TILES, encoding="utf-8")
    found = run_python(tree, "-c", "import cot_builder.benchmarks.table as table; print(table.__file__)")
    assert found.strip() == str(tree / "cot_builder/benchmarks/table.py"), "the code of the copy must run"
    return run_tree(tree, "--set", NEW % "synthetic", *SMALL, "pull", "new")


def run_tree(tree: Path, *arguments: str) -> str:
    """Run `indus-cot` in a tree; return its output including errors."""
    script = "import sys; sys.stderr = sys.stdout; from indus_cot.app import main\n"
    script += f"try:\n    main({list(arguments)!r})\nexcept SystemExit:\n    pass"
    return run_python(tree, "-c", script)


def compute_answering_keys(tree: Path) -> dict[str, str]:
    script = "import json; from eval.evaluate import POLICY_MODULES, answering_key as key; "
    keys: dict[str, str] = json.loads(
        run_python(tree, "-c", script + "print(json.dumps({p: key(p) for p in POLICY_MODULES}))")
    )
    return keys


def test_new_data_set_is_pulled(tree: Path, pulled: str) -> None:
    samples = pl.read_parquet(tree / "data/pull/new/sample.parquet")
    assert len(samples) == 6
    assert set(samples["category"]) == {"tile"} and set(samples["licence"]) == {
        "rendered by this project, free of third-party rights"
    }
    supervision = pl.read_parquet(tree / "data/pull/new/supervision.parquet")
    types = {row["raw_type"]: row["defect_type"] for row in supervision.iter_rows(named=True)}
    assert types == {None: None, "MT_Blowhole": "pit", "MT_Fray": "abrasion"}
    assert all(len(boxes) > 0 for boxes in supervision.filter(pl.col("label") == "anomalous")["boxes"])


def test_manifest_has_data_set_facts(tree: Path, pulled: str) -> None:
    manifest = json.loads((tree / "data/pull/new/manifest.json").read_text(encoding="utf-8"))
    facts = manifest["counts"]["benchmark"]
    assert facts["title"] == "Magnetic Tiles" and facts["homepage"] == "https://example.org/tiles"
    assert facts["attribution"] == "Synthetic stand-in for Magnetic Tiles, rendered by Indus-CoT"
    assert "of Magnetic Tiles: test normal 3 of 952, test anomalous 3 of 392" in " ".join(pulled.split())


def test_own_copy_has_its_licence(tree: Path, pulled: str) -> None:
    script = (
        "from cot_builder.benchmarks.licences import resolve_benchmark, to_hub_licence\n"
        "from cot_builder.params import PullSet\n"
        "facts = resolve_benchmark(PullSet(benchmark='tiles', source='there', role='train'))\n"
        "print(facts.licence, facts.redistribution, facts.attribution, to_hub_licence(facts.licence))"
    )
    assert run_python(tree, "-c", script).strip() == "CC BY-SA 4.0 allowed The makers of the tiles cc-by-sa-4.0"


def test_messages_list_new_data_set(tree: Path, pulled: str) -> None:
    wrong = run_tree(tree, "--set", "pull.new={benchmark: tile, source: synthetic, role: evaluate}", "pull", "new")
    assert "real_iad, sdd, tiles, visa; did you mean tiles?" in " ".join(wrong.split())
    setting = run_tree(
        tree, "--set", "pull.new={benchmark: tiles, source: x, role: train, licence: MIT}", "pull", "new"
    )
    assert "pull.new: licence is for folder; tiles has its own" in " ".join(setting.split())
    folder = tree / "somewhere/MT_Free/Imgs"
    folder.mkdir(parents=True)
    (folder / "1.jpg").write_bytes(b"no image")
    guess = run_tree(tree, "--set", "pull.new={benchmark: visa, source: somewhere, role: evaluate}", "pull", "new")
    assert "this looks like tiles: set pull.new.benchmark: tiles" in " ".join(guess.split())


def test_own_data_uses_its_labels(tree: Path, pulled: str) -> None:
    script = "from cot_builder.benchmarks.labels import map_label; print(map_label('folder', 'Scoured'), "
    script += "map_label('folder', 'thread'), map_label('mvtec_ad', 'thread'), map_label('tiles', 'thread'))"
    # Data sets map 'thread' to different types, so it is unspecified in users' own data.
    assert run_python(tree, "-c", script).split() == ["abrasion", "unspecified", "foreign_matter", "pit"]


def test_answer_keys_depend_on_labels(tree: Path, keys_before: dict[str, str], pulled: str) -> None:
    module = tree / "cot_builder/benchmarks/tiles.py"
    with_set = compute_answering_keys(tree)
    assert all(with_set[policy] != keys_before[policy] for policy in keys_before)
    module.write_text(TILES.replace("zoom=1.3", "zoom=1.2"), encoding="utf-8")
    assert compute_answering_keys(tree) == with_set
    module.write_text(TILES.replace('"scoured"', '"rubbed"'), encoding="utf-8")
    assert all(key != with_set[policy] for policy, key in compute_answering_keys(tree).items())
    module.write_text(TILES, encoding="utf-8")


def test_benchmark_name_matches_file(tree: Path, pulled: str) -> None:
    module = tree / "cot_builder/benchmarks/tiles.py"
    module.write_text(TILES.replace('name="tiles"', 'name="magnetic"'), encoding="utf-8")
    printed = " ".join(run_tree(tree, "--set", NEW % "synthetic", "pull", "new").split())
    module.write_text(TILES, encoding="utf-8")
    assert "BENCHMARK.name is 'magnetic'; it must be 'tiles', the name of the file" in printed
