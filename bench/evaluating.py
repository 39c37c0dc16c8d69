"""Evaluation: what the agent loop adds to bare generation, and how near an endpoint comes to its ideal rate."""

import csv
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bench.latency_server import latency_server
from bench.paired import Row, paired, seconds
from cot_builder.endpoint.prices import PRICES_FILE
from cot_builder.inspection.episode import GeneratedTurn, run_episodes
from cot_builder.inspection.rendering import Message
from cot_builder.params import Params, PullSet, load_params
from cot_builder.stages.pull import pull
from cot_builder.storage.images import encode_png
from cot_builder.storage.samples import SharedImages, read_samples
from cot_builder.storage.workspace import Workspace
from eval.policies import EvalContext, PolicyAnswer, start_episode, to_answer
from schemas.sample import SAMPLE, Sample

AT_ONCE, INSPECTED = 8, 16
SERVED, CONCURRENCY, LATENCY_S, SIDE = 1_725, 32, 0.5, 512
"""``SERVED``: as many images as MVTec AD's test list has."""
CALL = (
    '<think>Closer.</think>\n<tool_call>\n{"name": "crop", "arguments": {"region": [250, 250, 750, 750]}}\n</tool_call>'
)
KEY_ENV = "BENCH_ENDPOINT_KEY"


def evaluate_loop() -> Row:
    """Our loop with its tools over the same batches written by the same function and nothing else."""
    import torch

    from bench.training import THOUGHTS
    from eval.local import make_writer
    from tests.helpers import small_corpus, small_policy
    from train import tiny
    from train.model import load_model, load_processor

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        workspace = small_corpus.build(folder / "corpus")
        (folder / "policy").mkdir()
        policy = str(small_policy.build(folder / "policy", workspace, tiny.build, THOUGHTS) / small_policy.FITTED)
        context = _make_context(small_corpus.params(), workspace)
        samples = SAMPLE.records(read_samples(workspace, "mine"))[:INSPECTED]
        write = make_writer(load_model(policy).eval(), load_processor(policy), context.schemas, 200, 0.0)
        batches: list[list[list[Message]]] = []

        def noted(chats: Sequence[Sequence[Message]]) -> Sequence[GeneratedTurn]:
            batches.append([list(chat) for chat in chats])
            return write(chats)

        calls = sum(episode.observed for episode in run_episodes(_start_all(context, samples), noted, AT_ONCE))
        assert calls, "the policy calls no tool"

        def ours() -> None:
            for episode in run_episodes(_start_all(context, samples), write, AT_ONCE):
                to_answer(context, episode, seconds=0.0)

        def bare() -> None:
            for chats in batches:
                write(chats)

        ratio = 1 / paired(ours, bare)
    what = f"{INSPECTED} inspections with {calls} calls, {AT_ONCE} at once"
    return Row("evaluate_loop", what, "generating the same tokens in the same batches", ratio, 1.1, "lower")


def evaluate_endpoint() -> Row:
    """Ideal time over ours: two requests an image, with a call of a tool between them."""
    # As in every other row, what is imported once a process is no part of the rate.
    import httpcore2  # noqa: F401
    import openai  # noqa: F401

    from eval.served import ask_endpoint

    os.environ[KEY_ENV] = "none"
    with tempfile.TemporaryDirectory() as name, latency_server(LATENCY_S, CALL) as server:
        workspace = Workspace(Path(name))
        shutil.copy(PRICES_FILE, workspace.root)
        params = load_params("default", _settings(server.address))
        source = _photographs(Path(name) / "photographs", SERVED)
        params = params.model_copy(
            update={"pull": {"parts": PullSet(benchmark="folder", source=str(source), role="evaluate")}}
        )
        pull("parts", params, workspace)
        samples = SAMPLE.records(read_samples(workspace, "parts"))
        said: list[PolicyAnswer] = []
        context = _make_context(params, workspace)
        # The pictures, just written, would be on their way to the disk while answers are kept there.
        os.sync()
        spent = seconds(
            lambda: ask_endpoint(
                context, samples, lambda _, one: said.append(one), "bench", str, refresh=False, allow_unpriced=True
            )
        )
        assert len(said) == SERVED and all(item.observed == 1 for item in said)
    ideal = 2 * SERVED / CONCURRENCY * LATENCY_S
    what = f"{SERVED} images, a call each, {CONCURRENCY} requests at once, {LATENCY_S:g} s latency"
    return Row("evaluate_endpoint", what, "the ideal rate", ideal / spent, 0.95, "higher")


def _settings(address: str) -> list[str]:
    chosen: dict[str, Any] = {
        "evaluate.policy": "endpoint",
        "evaluate.model": "bench",
        "evaluate.base_url": address,
        "evaluate.api_key_env": KEY_ENV,
        "evaluate.max_calls": 1,
        "compute.endpoint.concurrency": CONCURRENCY,
    }
    return [f"{name}={json.dumps(value)}" for name, value in chosen.items()]


def _make_context(params: Params, workspace: Workspace) -> EvalContext:
    return EvalContext(params, workspace, SharedImages(workspace), {})


def _start_all(context: EvalContext, samples: Sequence[Sample]) -> Any:
    return (start_episode(context, sample) for sample in samples)


def _photographs(folder: Path, images: int) -> Path:
    """So many pictures of a grain, no two alike, and the table that lists them."""
    folder.mkdir()
    random = np.random.default_rng(0)
    grain = cv2.GaussianBlur(random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8), (0, 0), 4)
    with (folder / "parts.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "label"])
        for number in range(images):
            (folder / f"{number}.png").write_bytes(encode_png(np.roll(grain, number, axis=1)[:, : SIDE - number % 7]))
            table.writerow([f"{number}.png", ("good", "bad")[number % 2]])
    return folder / "parts.csv"
