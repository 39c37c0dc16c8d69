"""Evaluation in batches of a Qwen3-VL with the dimensions of the 8B, randomly initialised, on a GPU.

    indus-cot --profile real-mini pull mvtec_ad      # or any other set with role evaluate
    python -m bench.gpu_evaluate mvtec_ad            # 18 GB of disk for the weights, written where TMPDIR says

It prints images a second, memory, and the share of the time that is spent outside the model: in tools, in decoding and
resizing images, in templates and parsing. Random weights say nothing sensible: each inspection calls a tool and answers
in words that are dictated, a token a pass, so that every pass is made. On a CPU: ``--layers 2 --hidden 64 --side 128
--written 60 --images 8``.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from bench.gpu_step import CALL, HIDDEN, LAYERS, dictated, make_model, peak, timed, turns
from cot_builder.inspection.rendering import render_question, system_prompt
from cot_builder.inspection.toolbox import tool_schemas
from cot_builder.params import Params, load_params
from cot_builder.storage.samples import SharedImages, read_samples
from cot_builder.storage.workspace import Workspace
from eval.local import ask_transformers
from eval.policies import EvalContext
from schemas.sample import SAMPLE
from train.model import load_processor


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_evaluate", description=__doc__.partition("\n")[0])
    parser.add_argument("set", help="a pulled set")
    parser.add_argument("--profile", default="real-mini")
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--hidden", type=int, default=HIDDEN, help="units, a multiple of 64")
    parser.add_argument("--side", type=int, default=1024, help="pixels a side of every image, a multiple of 32")
    parser.add_argument("--written", type=int, default=300, help="tokens that the policy writes in an inspection")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument(
        "--images", type=int, default=64, help="inspections; images come round again where there are fewer"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        words = [system_prompt(), render_question("bolt", "C1"), CALL, *map(json.dumps, tool_schemas())]
        size = make_model(Path(folder), words, given.layers, given.hidden, given.side)
        print(f"{size / 1e9:.2f} G weights, {given.layers} layers of {given.hidden}")
        texts = turns(load_processor(folder), given.written)
        params = _params(given.profile, folder, given.batch, max(map(len, texts)))
        run(params, given.set, given.images, texts)


def _params(profile: str, model: str, batch: int, most: int) -> Params:
    import torch

    kind = "bfloat16" if torch.cuda.is_available() else "float32"
    chosen = {"evaluate.batch": batch, "evaluate.max_tokens": most, "train.dtype": kind}
    params = load_params(profile, [f"{name}={value}" for name, value in chosen.items()])
    return params.model_copy(update={"evaluate": params.evaluate.model_copy(update={"model": model})})


def run(params: Params, name: str, images: int, texts: list[list[int]]) -> None:
    """Inspect so many images; the first batch warms up."""
    from transformers import Qwen3VLForConditionalGeneration as Model

    workspace = Workspace()
    context = EvalContext(params, workspace, SharedImages(workspace), {})
    batch = params.evaluate.batch
    samples = list(islice(cycle(SAMPLE.records(read_samples(workspace, name))), batch + images))
    spent: dict[str, float] = defaultdict(float)
    Model.generate, Model.__call__ = _apart(dictated(Model.generate, texts, spent), Model.__call__, spent)
    started, calls = 0.0, 0
    for number, (_, said) in enumerate(ask_transformers(context, samples)):
        calls += said.observed
        if number == batch - 1:
            started, calls = time.perf_counter(), 0
            spent.clear()
    whole = time.perf_counter() - started
    model = spent["generation"] + spent["margin"]
    print(
        f"{images} images of {name}, {calls} calls, {batch} at once: {whole:.1f} s, {images / whole:.2f} images/s, "
        f"{100 * (1 - model / whole):.1f} % outside the model (generation {100 * spent['generation'] / whole:.1f} %, "
        f"margin {100 * spent['margin'] / whole:.1f} %){peak()}"
    )


def _apart(generate: Callable[..., Any], call: Callable[..., Any], spent: dict[str, float]) -> tuple[Any, Any]:
    """Both, the second timed as the margin where the first has not called it."""
    clocked, generating = timed(call, "margin", spent), False

    def generated(*arguments: Any, **options: Any) -> Any:
        nonlocal generating
        generating = True
        try:
            return generate(*arguments, **options)
        finally:
            generating = False

    def called(*arguments: Any, **options: Any) -> Any:
        return (call if generating else clocked)(*arguments, **options)

    return generated, called


if __name__ == "__main__":
    main()
