"""The whole pipeline as `indus-cot repro` runs it: DVC, all stages, the corpus, and faults."""

import filecmp
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from cot_builder.stages.verify import verify
from schemas.errors import IndusCotError
from schemas.indus_cot import INDUS_COT
from tests.helpers.pages import find_undocumented_files
from tests.helpers.paths import REAL
from tests.helpers.pipeline import SMALL, UNTRAINED, command, make, new_project, run

STAGES = ("select", "patch", "prior", "draft", "assemble")
TRAININGS = ("sft", "grpo")
FOLDERS = {"assemble": "indus_cot"}

pytestmark = [pytest.mark.slow, pytest.mark.train]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = new_project(tmp_path_factory.mktemp("project"))
    done = run(folder, "repro")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def read_corpus_rows(project: Path) -> pl.DataFrame:
    shards = sorted((project / "data/indus_cot/data").glob("*.parquet"))
    return pl.DataFrame([row for shard in shards for row in pq.read_table(shard).to_pylist()], schema=INDUS_COT.dtypes)


def test_corpus_loads_with_datasets(project):
    import datasets

    corpus = datasets.load_dataset(str(project / "data/indus_cot"), cache_dir=str(project / "hf"))
    assert set(corpus) == {"train", "validation"}
    rows = read_corpus_rows(project)
    INDUS_COT.validate(rows)
    assert sum(split.num_rows for split in corpus.values()) == rows.height
    row = corpus["train"][0]
    assert row["messages"][0]["role"] == "system" and row["tools"][0]["type"] == "function"
    assert row["image"].size == row["images"][0].size
    shown = sum(part["type"] == "image" for message in row["messages"] for part in message["content"])
    assert shown == len(row["images"])
    priors = datasets.load_dataset(str(project / "data/indus_cot"), "priors", cache_dir=str(project / "hf"))
    assert set(priors["train"]["source_set"]) == {"real_iad"}


def test_frozen_stage_may_come_first(tmp_path):
    done = run(new_project(tmp_path), "repro", "prior_review")
    assert done.returncode == 0, done.stdout + done.stderr


def test_images_are_published_bytes(project):
    import hashlib

    rows = read_corpus_rows(project)
    samples = dict(
        pl.read_parquet(project / "data/select/sample.parquet").select("sample_id", "image_sha256").iter_rows()
    )
    for row in rows.select("sample_id", "image", "image_sha256").iter_rows(named=True):
        assert hashlib.sha256(row["image"]["bytes"]).hexdigest() == row["image_sha256"] == samples[row["sample_id"]]


def test_parts_stay_within_one_split(project):
    rows = read_corpus_rows(project).select("sample_id", "split")
    parts = pl.read_parquet(project / "data/select/sample.parquet").select("sample_id", "part_id")
    assert rows.join(parts, on="sample_id").group_by("part_id").agg(pl.col("split").n_unique())["split"].max() == 1


def test_corpus_is_balanced_over_tools(project):
    rows = read_corpus_rows(project)
    assert 0.35 < (rows["answer"] == "No").mean() < 0.65
    used = set(rows["tool_calls"].explode().drop_nulls())
    assert used == {"crop", "enhance", "measure", "prior"}
    assert rows.filter(pl.col("tool_calls").list.len() == 0).height > 0, "clear images must be answered without a tool"
    assert rows.filter((pl.col("answer") == "No") & (pl.col("tool_calls").list.len() > 0)).height > 0


def test_student_text_hides_truth_and_files(project):
    truth = pl.read_parquet(project / "data/select/supervision.parquet")
    rows = read_corpus_rows(project).join(truth.select("sample_id", "source_path"), on="sample_id")
    for row in rows.iter_rows(named=True):
        stem = Path(row["source_path"]).stem
        assert stem not in row["messages"] and row["sample_id"] not in row["messages"]
        names = [row["image"]["path"], *(image["path"] for image in row["images"])]
        assert not any(stem in name or row["category"] in name for name in names)
        text = json.dumps([row["messages"], row["trajectory"], row["tagged"], row["prior"]])
        assert str(project) not in text and row["sample_id"] not in text


def test_local_patches_ignore_truth(project):
    patches = pl.read_parquet(project / "data/patch/patch.parquet")
    chosen = patches.filter(pl.col("kind") == "proposal").sort("sample_id", "rank")
    expected = {key[0]: group["box"].to_list() for key, group in chosen.partition_by("sample_id", as_dict=True).items()}
    assert set(patches["kind"]) == {"proposal", "defect", "hard_normal"}
    for row in read_corpus_rows(project).iter_rows(named=True):
        assert [patch["box"] for patch in row["patch_pairs"]] == expected.get(row["sample_id"], [])


def test_overlapping_categories_are_dropped(project):
    dropped = pl.read_csv(project / "data/select/dropped_categories.csv")
    kept = set(pl.read_parquet(project / "data/select/sample.parquet")["category"])
    assert dropped.height >= 2 and not set(dropped["category"]) & kept


@pytest.mark.browser
def test_report_fits_desktop_and_phone(project):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium here: `make test` installs it where it may")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for width in (1280, 390):
            page = browser.new_page(viewport={"width": width, "height": 844})
            page.goto((project / "reports/index.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        browser.close()


def test_trainings_write_models_and_plots(project):
    for stage in TRAININGS:
        assert (project / f"models/{stage}/model.safetensors").is_file()
        assert "Indus-CoT" in (project / f"models/{stage}/README.md").read_text()
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "metrics", "show", "--json"], cwd=project, capture_output=True, check=True
    )
    figures = json.loads(done.stdout)[""]["data"]
    assert figures["reports/sft.json"]["data"]["steps"] == figures["reports/grpo.json"]["data"]["steps"] == 1
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "plots", "show", "--json"], cwd=project, capture_output=True, check=True
    )
    plots = json.loads(done.stdout)["data"]
    assert {"sft loss", "grpo reward", "grpo kl"} <= plots.keys()
    # The folder of reward terms, whose files dvc.yaml does not list.
    terms = {name: json.dumps(plot) for name, plot in plots.items() if name.startswith("reports/grpo/terms")}
    assert all(
        f"{name}.csv" in " ".join([*terms, *terms.values()]) for name in ("accuracy", "location", "type", "tool")
    )
    assert "step 1" in (project / "reports/index.html").read_text().partition('id="sec-training"')[2]


def test_page_of_files_lists_every_file(project):
    undocumented, absent = find_undocumented_files(project)
    assert not undocumented and not absent


def test_gates_are_reported(project):
    figures = json.loads((project / "reports/gates.json").read_text())
    assert figures["passed"] == pl.read_parquet(project / "data/draft/trajectory.parquet").height
    assert {"leak", "evidence", "duplicates"} <= figures["failed"].keys()
    assert "| leak |" in (project / "reports/gates.md").read_text()


def test_second_repro_runs_nothing(project):
    before = {path: path.stat().st_mtime_ns for path in (project / "data").rglob("manifest.json")}
    done = run(project, "repro")
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in (project / "data").rglob("manifest.json")} == before
    assert "Running stage 'select'" not in done.stdout


def test_parameter_reruns_only_dependents(project, tmp_path):
    changed = shutil.copytree(project, tmp_path / "project", symlinks=True)
    done = run(changed, "repro", settings=(*SMALL, "report.gallery=3", "compute.workers=1"))
    assert done.returncode == 0, done.stderr
    ran = {stage for stage in (*STAGES, *TRAININGS, "report", "pull@visa") if f"Running stage '{stage}'" in done.stdout}
    assert ran == {"report"}
    import datasets

    def count_loaded_rows() -> int:
        return datasets.load_dataset(str(changed / "data/indus_cot"), cache_dir=str(changed / "hf"))[
            "validation"
        ].num_rows

    before = count_loaded_rows()
    done = run(changed, "repro", "assemble", settings=(*SMALL, "select.validation_fraction=0.4"))
    assert done.returncode == 0, done.stderr
    ran = {stage for stage in (*STAGES, *TRAININGS, "report", "pull@visa") if f"Running stage '{stage}'" in done.stdout}
    assert {"select", "prior", "assemble"} <= ran and "pull@visa" not in ran, (
        "priors are measured on the train split only"
    )
    written = sum(pq.read_metadata(path).num_rows for path in (changed / "data/indus_cot/data").glob("validation-*"))
    assert count_loaded_rows() == written > before, "a changed corpus must not come from the cache of the old one"


def test_verify_names_first_difference(project, tmp_path):
    done = run(project, "verify")
    assert done.returncode == 0 and "tool calls replayed, all equal" in done.stdout
    corpus = shutil.copytree(project / "data/indus_cot", tmp_path / "corpus")
    shard = corpus / "data/train-00000.parquet"
    table = pq.read_table(shard)
    rows = table.to_pylist()
    victim = next(row for row in rows if len(row["images"]) > 1)
    png = bytearray(victim["images"][1]["bytes"])
    png[len(png) // 2] ^= 1
    victim["images"][1]["bytes"] = bytes(png)
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), shard)
    done = run(project, "verify", str(corpus))
    assert done.returncode == 1
    assert victim["id"] in done.stderr and "turn" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "column, change, message",
    [
        ("trajectory", lambda text: text.replace(" px shown", " px  shown", 1), "the tool returns"),
        ("image_sha256", lambda digest: "0" * 64, "does not match its sha256"),
        ("messages", lambda text: text.replace(" px shown", " px  shown", 1), "column messages does not match"),
        ("tagged", lambda text: text.replace("<think>", "<think> ", 1), "column tagged does not match"),
        ("answer", lambda answer: "No" if answer == "Yes" else "Yes", "column answer does not match"),
        ("toolbox_version", lambda version: version + "x", "made with tools of version"),
        ("trajectory", lambda text: text[:-3], "column trajectory is invalid"),
    ],
)
def test_verify_refuses_a_changed_row(project, tmp_path, column, change, message):
    corpus = shutil.copytree(project / "data/indus_cot", tmp_path / "corpus")
    shard = corpus / "data/train-00000.parquet"
    table = pq.read_table(shard)
    rows = table.to_pylist()
    victim = next(row for row in rows if change(row[column]) != row[column])
    victim[column] = change(victim[column])
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), shard)
    with pytest.raises(IndusCotError, match=message):
        verify(corpus)


def test_verify_of_damaged_corpus(project, tmp_path):
    corpus = shutil.copytree(project / "data/indus_cot", tmp_path / "corpus")
    shard = corpus / "data/train-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    done = run(project, "verify", str(corpus))
    assert done.returncode == 1 and "damaged parquet file" in done.stderr and "Traceback" not in done.stderr
    done = run(project, "verify", str(tmp_path))
    assert done.returncode == 1 and "so it is not a corpus" in done.stderr


@pytest.mark.parametrize("stage", STAGES)
def test_killed_stage_keeps_last_output(project, tmp_path, stage):
    work = shutil.copytree(project, tmp_path / "project", symlinks=True)
    folder = work / "data" / FOLDERS.get(stage, stage)
    before = (folder / "manifest.json").read_bytes()
    process = subprocess.Popen(command(stage), cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    staging = folder.with_name(f".{folder.name}.partial")
    deadline = time.monotonic() + 60
    while not (staging.exists() and any(staging.iterdir())) and process.poll() is None:
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (folder / "manifest.json").read_bytes() == before, "the last complete output must stay in place"
    done = run(work, stage)
    assert done.returncode == 0, done.stderr
    assert not staging.exists()
    tables = [path.relative_to(folder) for path in folder.rglob("*.parquet")]
    reference = project / "data" / folder.name
    assert tables == [] or all(filecmp.cmp(folder / name, reference / name, shallow=False) for name in tables)
    assert sorted(tables) == sorted(path.relative_to(reference) for path in reference.rglob("*.parquet"))


def test_killed_report_keeps_last_pages(project):
    folder = project / "reports"
    staging = folder / ".items.partial"

    def read_pages() -> dict[str, bytes]:
        found = [folder / "index.html", *sorted((folder / "items").iterdir())]
        return {path.name: path.read_bytes() for path in found if path.name != "manifest.json"}

    before = read_pages()
    process = subprocess.Popen(command("report"), cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (staging.exists() and any(staging.iterdir())) and process.poll() is None:
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert staging.exists(), "the command ended before it was killed"
    assert read_pages() == before
    done = run(project, "report")
    assert done.returncode == 0 and not staging.exists(), done.stderr
    assert read_pages() == before


def test_simultaneous_runs_are_refused(project, tmp_path):
    from filelock import FileLock

    work = shutil.copytree(project, tmp_path / "project", symlinks=True)
    with FileLock(work / "data/.select.lock"):
        done = run(work, "select")
    assert done.returncode == 1
    assert "another run is writing this folder" in done.stderr and "Traceback" not in done.stderr


def test_missing_input_names_stage_to_run(tmp_path):
    folder = new_project(tmp_path)
    for stage in (*STAGES, *TRAININGS, "report"):
        done = run(folder, stage)
        assert done.returncode == 1, stage
        assert "indus-cot" in done.stderr and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["--profile", "nowhere", "select"],
            "no profile 'nowhere'; available profiles: default, learn, paper, real-mini",
        ),
        (["--set", "select.samples=many", "select"], "select.samples"),
        (["--set", "select.colour=1", "select"], "no such parameter: select.colour"),
        (["--set", "samples", "select"], "section.key=value"),
        (["pull", "nonsense"], "nonsense"),
    ],
)
def test_wrong_command_line_is_one_message(project, arguments, message):

    done = subprocess.run(
        [sys.executable, "-m", "indus_cot", *arguments], cwd=project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr


def test_command_outside_project(tmp_path):
    done = run(tmp_path, "select")
    assert done.returncode == 1 and "run indus-cot in the project's folder" in done.stderr


def test_doctor_names_missing_source(project):
    done = run(project, "doctor")
    assert done.returncode == 0, done.stdout
    done = run(project, "doctor", settings=("pull.visa.source=nowhere/visa",))
    assert done.returncode == 1
    assert "nowhere/visa does not exist" in done.stdout and "set pull.visa.source" in done.stdout


def test_doctor_names_parameters_of_another_profile(project):
    assert "other parameters" not in run(project, "doctor").stdout
    others = (*SMALL, "synthetic.parts=4", "select.samples=50", "run.seed=8")
    done = run(project, "doctor", settings=others, COLUMNS="500")
    assert done.returncode == 0, done.stdout
    assert "made with other parameters: synthetic.parts 8 (now 4), run.seed 7 (now 8);" in done.stdout
    assert "made with other parameters: select.samples 60 (now 50), run.seed 7 (now 8);" in done.stdout


@pytest.mark.parametrize(
    ("damage", "message"), [("cut", "is damaged or truncated"), ("gone", "is missing"), ("rows", "has 1 rows")]
)
def test_doctor_names_a_damaged_table(project, damage, message):
    table = project / "data/pull/sdd/images-00000.parquet"
    aside = table.with_suffix(".aside")
    table.rename(aside)
    try:
        if damage == "cut":
            table.write_bytes(aside.read_bytes()[:-1000])
        elif damage == "rows":
            pl.read_parquet(aside).head(1).write_parquet(table)
        done = run(project, "doctor", COLUMNS="500")
    finally:
        aside.replace(table)
    assert done.returncode == 1 and "indus-cot pull sdd" in done.stdout
    assert f"data/pull/sdd/images-00000.parquet {message}" in done.stdout


def test_help_needs_no_heavy_import(project):
    code = (
        "import sys; sys.argv=['indus-cot', '--help']\n"
        "from indus_cot.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'cv2', 'numpy', 'polars', 'pandera', 'datasets', 'pyarrow', 'torch'} & sys.modules.keys()))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=project, check=False)
    assert "repro" in done.stdout and done.stdout.strip().endswith("[]")


def test_corpus_half_imports_no_torch(project):

    code = (
        "import sys, pkgutil, importlib, cot_builder, schemas, eval\n"
        "for package in (cot_builder, schemas, eval):\n"
        "    for found in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        if not found.name.endswith('__main__'): importlib.import_module(found.name)\n"
        "assert 'torch' not in sys.modules and 'ray' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=project, check=False)
    assert done.returncode == 0, done.stderr


def test_six_real_layouts_run_through(tmp_path):
    if not REAL.is_dir():
        pytest.skip(f"no real photographs at {REAL}; set INDUS_COT_REAL_DATA")
    folder = new_project(tmp_path)
    real = {"profile": "real-mini", "INDUS_COT_REAL_DATA": os.fspath(REAL.resolve())}
    make(folder, "pull", *STAGES, *TRAININGS, "evaluate", "report", settings=UNTRAINED, **real)
    tables = [pl.read_parquet(path) for path in sorted((folder / "data/pull").glob("*/supervision.parquet"))]
    sets = {path.parent.name: pl.read_parquet(path) for path in (folder / "data/pull").glob("*/supervision.parquet")}
    assert len(tables) == 6
    counted = {name: dict(table["label"].value_counts().iter_rows()) for name, table in sets.items()}
    assert counted["real_iad"] == {"normal": 58, "anomalous": 57}
    assert counted["mvtec_ad"] == {"normal": 10, "anomalous": 12}
    assert counted["mpdd"] == {"normal": 12, "anomalous": 12}
    assert counted["visa"] == {"normal": 8, "anomalous": 10}
    assert counted["dtd"] == {"normal": 18, "anomalous": 29}
    dropped = pl.read_csv(folder / "data/select/dropped_categories.csv")
    assert dropped["category"].to_list() == ["hazelnut"]
    assert "hazelnut" in (folder / "data/select/leakage.md").read_text()
    rows = read_corpus_rows(folder)
    assert set(rows["category"]) == {"ball_screw"} and rows.height > 40
    assert run(folder, "verify", settings=(), profile="real-mini").returncode == 0
    assert (folder / "models/grpo/model.safetensors").is_file()
    tiny = (*UNTRAINED, "evaluate.policy=transformers", "evaluate.limit=2", "evaluate.max_tokens=32")
    for name, images in {"mvtec_ad": 16, "visa": 14, "mpdd": 18, "dtd": 37, "sdd": 17}.items():
        done = run(folder, "evaluate", name, "--results", "tiny", settings=tiny, **real)
        assert done.returncode == 0, done.stderr
        for results, count, policy in (("tiny", 2, "transformers"), ("results", images, "residual")):
            metrics = json.loads((folder / results / name / "metrics.json").read_text())
            assert (metrics["run"]["policy"], metrics["listing"]["evaluated"]) == (policy, count)
            assert metrics["listing"]["same_list"] is False
    assert "this run, results/SET/metrics.json" in (folder / "reports/index.html").read_text()
