"""Training: what tools and rewards take of a step, the collator against the bare processor, two processes against
one. All on a tiny model of 1.8 million weights, each process on one thread."""

import functools
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.paired import Row, paired
from tests.helpers import small_corpus, small_policy
from train import corpus, tiny
from train import grpo as stage
from train.environment import InspectionEnvironment
from train.model import load_processor
from train.truth import read_truth

STEPS = 9
"""Of GRPO; the first one warms up."""
THOUGHTS = (
    "First the whole: a part in an even colour, against a plain grey ground. My attention goes to a tiny area at the "
    "lower middle, which comes out darker than the area around it and keeps to one compact patch. It is too small to "
    "judge at this scale. I enlarge it.",
    "Enlarged, the area keeps its border and its tone. What I see fits a mark in the surface: it breaks the grain and "
    "is too crisp for a shadow, and nothing beside it repeats it. The rest of the part is even in tone and in shape, "
    "and I find no second place of the kind.",
)
"""100 words, as many as a trajectory of the default corpus has."""
AT_ONCE = 4
"""Trajectories in a batch of the collator, and of each process."""
UPDATES = 16
RUNS = 3


@dataclass(frozen=True)
class _Step:
    """Seconds of a step, and of these in the tools, in the rewards, and in the margin, which the rewards ask for."""

    whole: float
    tools: float
    rewards: float
    margin: float


def grpo_environment() -> Row:
    """Step time over the same step's time without what was spent in tools and rewards, margin included.

    Both from one run, so that model and tokens are the same: a second run without tools would write other tokens.
    """
    ratio = statistics.median(step.whole / (step.whole - step.tools - step.rewards) for step in _steps())
    what = "a GRPO step of 4 inspections (a call and 100 words each)"
    return Row("grpo_environment", what, "without tools and rewards", ratio, 1.1, "lower")


def rewards_share() -> Row:
    """From the same run."""
    ratio = statistics.median((step.rewards - step.margin) / step.whole for step in _steps())
    return Row("rewards_share", "rewards without the margin", "the GRPO step they are in", ratio, 0.01, "lower")


@functools.cache
def _steps() -> list[_Step]:
    """Steps of the default parameters, of a policy that calls a tool once and answers."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        workspace = small_corpus.build(folder / "corpus")
        (folder / "policy").mkdir()
        policy = small_policy.build(folder / "policy", workspace, tiny.build, THOUGHTS)
        return _timed_steps(policy, folder)


def _timed_steps(policy: Path, folder: Path) -> list[_Step]:
    import torch
    from transformers import TrainerCallback
    from trl import GRPOTrainer

    from cot_builder.storage.output import Output
    from cot_builder.storage.workspace import Workspace

    torch.set_num_threads(1)
    model = policy / small_policy.FITTED
    processor = load_processor(str(model))
    found = corpus.read(policy / "data" / "indus_cot")["train"]
    rows, truth = stage.select_prompts(found, processor, 4096, Output(folder)), read_truth(Workspace(policy), found)
    # It must not unlearn its calls while they are timed.
    settings: dict[str, Any] = {"steps": STEPS, "save_steps": STEPS, "sample_steps": STEPS, "learning_rate": 1e-9}
    chosen = small_policy.params(model, **settings, max_completion=1024)
    trainer = stage.build_trainer(chosen, str(model), processor, rows, truth, {}, folder)
    spent: defaultdict[str, float] = defaultdict(float)
    ends: list[tuple[float, dict[str, float]]] = []

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            ends.append((time.perf_counter(), spent.copy()))

    # Before what saves checkpoints and rollouts.
    trainer.callback_handler.callbacks.insert(0, Clock())
    with ExitStack() as clocks:
        for owner, function, label in (
            (InspectionEnvironment, "reset", "tools"),
            (InspectionEnvironment, "_observe", "tools"),
            (GRPOTrainer, "_calculate_rewards", "rewards"),
            (stage, "margins", "margin"),
        ):
            clocks.enter_context(_clocked(owner, function, label, spent))
        trainer.train()
    assert spent["tools"] and spent["margin"]
    return [
        _Step(end - start, *(after[label] - before[label] for label in ("tools", "rewards", "margin")))
        for (start, before), (end, after) in itertools.pairwise(ends)
    ]


@contextmanager
def _clocked(owner: Any, name: str, label: str, spent: dict[str, float]) -> Iterator[None]:
    function: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(function)
    def timed(*arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            spent[label] += time.perf_counter() - started

    setattr(owner, name, timed)
    yield
    setattr(owner, name, function)


def collator() -> Row:
    """Against images decoded by PIL and the processor's own `apply_chat_template`, without labels."""
    import torch
    from PIL import Image

    from train import collator as ours

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        workspace = small_corpus.build(Path(name))
        found = corpus.read(workspace.indus_cot)["train"]
        tiny.build(Path(name) / "tiny", corpus.iter_texts(found), 0)
        processor = load_processor(str(Path(name) / "tiny"))
        rows = list(found)
        batches = [rows[start : start + AT_ONCE] for start in range(0, len(rows), AT_ONCE)]
        collate = ours.make_collator(processor)

        def filled(row: dict[str, Any]) -> list[dict[str, Any]]:
            images = (Image.open(io.BytesIO(image["bytes"])).convert("RGB") for image in row["images"])
            return [
                {
                    **message,
                    "content": [
                        {"type": "image", "image": next(images)} if part["type"] == "image" else part
                        for part in message["content"]
                    ],
                }
                for message in row["messages"]
            ]

        def bare() -> None:
            for batch in batches:
                processor.apply_chat_template(
                    [filled(row) for row in batch],
                    tools=batch[0]["tools"],
                    tokenize=True,
                    return_dict=True,
                    return_tensors="pt",
                    processor_kwargs={"padding": True},
                )

        ratio = paired(lambda: [collate(batch) for batch in batches], bare, 9)
    torch.set_num_threads(threads)
    what = f"collator, batches/s ({AT_ONCE} trajectories of 0 to 4 calls)"
    return Row("collator", what, "the bare processor on the same batch", ratio, 0.8, "higher")


def train_two_processes() -> Row:
    """Trajectories a second of `sft` in two processes on gloo over those of one, each with a batch of its own."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        workspace = small_corpus.build(root)
        tiny.build(root / "tiny", corpus.iter_texts(corpus.read(workspace.indus_cot)["train"]), 0)
        ratios = []
        for turn in range(RUNS):
            order = (1, 2) if turn % 2 else (2, 1)
            rates = {processes: _rate(root, root / f"{turn}-{processes}", processes) for processes in order}
            ratios.append(rates[2] / rates[1])
    ratio = statistics.median(ratios)
    what = f"sft in 2 processes, trajectories/s ({AT_ONCE} a process and step)"
    return Row("train_two_processes", what, "1 process", ratio, 1.6, "higher")


def _rate(root: Path, folder: Path, processes: int) -> float:
    """Trajectories a second while it trains, start-up apart."""
    folder.mkdir()
    (folder / "data").symlink_to(root / "data")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *launch, "-m", "bench.training_process", str(root / "tiny"), str(folder)]
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "true",
        "HF_DATASETS_CACHE": str(folder / "hf"),
        "OMP_NUM_THREADS": "1",
    }
    subprocess.run(command, env=environment, check=True, capture_output=True)
    found = json.loads((folder / "reports" / "sft.json").read_text())
    return processes * AT_ONCE * UPDATES / found["seconds"]
