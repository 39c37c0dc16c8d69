"""The public Python face: what `from indus_cot import …` gives, and what importing it costs."""

import ast
import inspect
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import indus_cot
from cot_builder.corpus.reading import read_all
from cot_builder.inspection.rendering import render_messages, render_tags
from cot_builder.storage.workspace import Workspace
from indus_cot import (
    Corpus,
    IndusCotError,
    Toolbox,
    ToolError,
    load_corpus,
    read_completion,
    replay,
    rewards,
    score_predictions,
    verify_corpus,
)
from tests.helpers import small_corpus
from tests.helpers.paths import ROOT

HEAVY = ("torch", "polars", "cv2", "datasets", "numpy", "pydantic", "transformers")
YES = "<think>A mark.</think><location>[[10, 10, 90, 90]]</location><type>scratch</type><answer>Yes</answer>"
NO = "<think>All is even.</think><answer>No</answer>"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return small_corpus.build(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def corpus(workspace: Workspace) -> Corpus:
    return load_corpus(workspace.indus_cot)


def test_import_is_light_and_quick() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import indus_cot; took = time.perf_counter() - start\n"
        f"print(took, [name for name in {HEAVY} if name in sys.modules])"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
        for _ in range(3)
    ]
    assert all(done.returncode == 0 and done.stdout.endswith(" []\n") for done in runs), runs
    # The quickest of three: another process may have had the core.
    assert min(float(done.stdout.split()[0]) for done in runs) < 0.1


def test_every_public_name_is_documented() -> None:
    assert sorted(indus_cot.__all__) == sorted(indus_cot._PLACES)
    for name in indus_cot.__all__:
        value = getattr(indus_cot, name)
        assert not callable(value) or inspect.getdoc(value), name
        assert f"`{name}`" in (indus_cot.__doc__ or "") or name == "rewards", name
    assert set(indus_cot.__all__) <= set(dir(indus_cot))
    with pytest.raises(AttributeError, match="no attribute 'nothing'; there are RESPONSE_TEMPLATE, Completion"):
        indus_cot.nothing  # noqa: B018


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((ROOT / "indus_cot/__init__.py").read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    found = {
        alias.asname or alias.name: f"{node.module}:{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert found.pop("rewards") == "train:rewards"
    assert found == {name: place for name, place in indus_cot._PLACES.items() if name != "rewards"}


def test_packages_are_marked_as_typed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    packages = [name.removesuffix("*") for name in settings["packages"]["find"]["include"]]
    assert len(packages) > 5 and all((ROOT / name / "py.typed").is_file() for name in packages)


def test_corpus_rows_equal_the_stored_ones(corpus: Corpus, workspace: Workspace) -> None:
    stored = {row.id: row for row in read_all(workspace.indus_cot)}
    found = list(corpus)
    assert len(corpus) == len(found) == len(stored) and set(corpus.counts) == {"train", "validation"}
    for row in found:
        due = stored[row.id]
        assert row.trajectory.model_dump_json() == due.trajectory
        assert row.messages == json.loads(due.messages) == render_messages(row.trajectory, row.category, row.view)
        assert row.images == [image.bytes for image in due.images] and row.split == due.split
    assert len(list(corpus.rows("validation"))) == corpus.counts["validation"]
    with pytest.raises(IndusCotError, match="no split 'test'; there are train, validation"):
        corpus.rows("test")


def test_corpus_replays_its_calls(corpus: Corpus, workspace: Workspace) -> None:
    # The drafts of the small corpus have other priors than the corpus lists.
    row = next(row for row in corpus if len(row.trajectory.calls) == 1 and len(row.images) == 2)
    assert corpus.replay(row) == 1
    with pytest.raises(IndusCotError, match=r"turn 1, crop\(.*the stored image is missing"):
        replay(row.trajectory, corpus.toolbox(row), [])
    with pytest.raises(IndusCotError, match="the tool returns"):
        replay(row.trajectory, Toolbox(np.zeros((9, 9, 3), np.uint8)), row.images[1:])
    with pytest.raises(IndusCotError, match="turn"):
        verify_corpus(workspace.indus_cot)


def test_load_corpus_refuses_other_folders(tmp_path: Path) -> None:
    with pytest.raises(IndusCotError, match="holds neither"):
        load_corpus(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(IndusCotError, match=r"train-00000.parquet: damaged parquet file"):
        load_corpus(tmp_path)


def test_toolbox_opens_any_form_of_image(tmp_path: Path) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels[:, :, ::-1])
    picture.save(tmp_path / "part.png")
    path = tmp_path / "part.png"
    shown = [Toolbox.open(image).call("crop", region=[0, 0, 500, 500]) for image in
             (pixels, picture, path, str(path), path.read_bytes())]  # fmt: skip
    assert all(result.image is not None and (result.image == shown[0].image).all() for result in shown)
    with pytest.raises(ToolError, match="no tool 'zoom'; there are crop, enhance, measure, prior"):
        Toolbox.open(pixels).call("zoom")
    with pytest.raises(IndusCotError, match=r"none\.png: cannot be read"):
        Toolbox.open(tmp_path / "none.png")
    with pytest.raises(IndusCotError, match="pixels are float64"):
        Toolbox.open(pixels / 255)


def test_completions_are_read_from_every_form(corpus: Corpus) -> None:
    clean = [row for row in corpus if not any("<" in turn.thought for turn in row.trajectory.turns)]
    assert len(clean) > 10
    for row in clean:
        for written in (row.messages[2:], render_tags(row.trajectory)):
            found = read_completion(written)
            assert found.verdict == row.trajectory.verdict and not found.faults
            assert list(found.calls) == row.trajectory.calls
            assert list(found.thoughts) == [turn.thought for turn in row.trajectory.turns]


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ("It is fine.", "not a thought and one verdict"),
        (f"{NO}{YES}", "not a thought and one verdict"),
        ("<think>Closer.</think><tool_call>{}</tool_call>", "a call of an unknown tool"),
        ("<think>Closer.</think><call_tool>crop</call_tool><observation>x</observation>", "a call of an unknown tool"),
        (YES.replace("scratch", "sadness"), "no type 'sadness'"),
        ("", "not a thought and one verdict"),
    ],
)
def test_faulty_completions_have_no_verdict(written: str, fault: str) -> None:
    found = read_completion(written)
    assert found.verdict is None and any(fault in item for item in found.faults)


def test_unknown_tools_are_calls_and_faults() -> None:
    found = read_completion('<think>So.</think><tool_call>{"name": "zoom", "arguments": {}}</tool_call>')
    assert [call.tool for call in found.calls] == ["zoom"] and found.faults[0].startswith("a call of an unknown tool")


def test_rewards_score_plain_messages() -> None:
    functions, weights = rewards.reward_functions({"beta": 0})
    names = [function.__name__ for function in functions]
    # Nobody measures confidence here, so the term that needs it is left out.
    assert names == ["accuracy_reward", "location_reward", "format_reward"] and weights == [1.0, 0.8, 0.5]
    written = [[{"role": "assistant", "content": text}] for text in (YES, NO, "Yes")]
    truth = {"answer": ["Yes"] * 3, "boxes": [[(10, 10, 90, 90)]] * 3, "defect_type": ["scratch"] * 3}
    assert [function(completions=written, **truth) for function in functions] == [[1, 0, 0], [1, 0, 0], [0, 0, -1]]


def test_predictions_are_scored() -> None:
    rows = [{"true_answer": "Yes", "answer": answer, "part_id": f"p{i}"} for i, answer in enumerate(["Yes", None])]
    rows += [{"true_answer": "No", "answer": "No", "category": "nut"} for _ in range(2)]
    found = score_predictions(rows, draws=10)
    assert found.overall.balanced_accuracy and found.overall.balanced_accuracy.value == 0.75
    assert found.overall.images == 4 and found.overall.unparsed == 1 and set(found.by["category"]) == {"all", "nut"}
    for wrong, message in (
        ([], "there is none"),
        ([{"answer": "No"}], "prediction 0: no true_answer"),
        ([{"true_answer": "No", "answer": "Maybe"}], "prediction 0, answer: Input should be"),
        ([{"true_answer": "No", "answer": "No", "sample_id": "a"}] * 2, "the key is unique"),
    ):
        with pytest.raises(IndusCotError, match=message):
            score_predictions(wrong)


@pytest.mark.slow
def test_mypy_knows_the_types(tmp_path: Path) -> None:
    script = tmp_path / "outsider.py"
    script.write_text(
        "from indus_cot import Toolbox, load_corpus\nimport indus_cot\n"
        "reveal_type(Toolbox.open('part.png').call('crop').text)\n"
        "reveal_type(load_corpus('here').counts)\nindus_cot.nothing\n"
    )
    # With the cache of a check of the whole product, which would take ten seconds.
    command = [sys.executable, "-m", "mypy", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    notes = [line.split(": ", 1)[1] for line in done.stdout.splitlines() if script.name in line]
    assert notes == [
        'note: Revealed type is "str"',
        'note: Revealed type is "typing.Mapping[str, int]"',
        'error: Module has no attribute "nothing"  [attr-defined]',
    ], done.stdout
