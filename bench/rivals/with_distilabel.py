"""The job with distilabel: `with_distilabel.py FOLDER`, the address in BENCH_ADDRESS."""

import base64
import os
import sys
from pathlib import Path
from typing import Any

from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration
from measured import CONCURRENCY, MAX_TOKENS, MODEL, measured, rows


class Inspection(TextGeneration):
    """Its own task with an image takes one only: this one takes two, from their files."""

    @property
    def inputs(self) -> list[str]:
        return ["prompt", "image_1", "image_2"]

    def format_input(self, input: dict[str, Any]) -> list[dict[str, Any]]:
        content = [{"type": "text", "text": input["prompt"]}]
        for name in ("image_1", "image_2"):
            data = base64.b64encode(Path(input[name]).read_bytes()).decode()
            content.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}})
        return [{"role": "user", "content": content}]


def main() -> None:
    address, folder = os.environ["BENCH_ADDRESS"], Path(sys.argv[1])
    with Pipeline(name="bench", cache_dir=str(folder / "distilabel")) as pipeline:
        load = LoadDataFromDicts(data=rows(folder), batch_size=CONCURRENCY)
        inspect = Inspection(
            llm=OpenAILLM(
                model=MODEL, base_url=address, api_key="none", generation_kwargs={"max_new_tokens": MAX_TOKENS}
            ),
            # A batch is what it has under way at once.
            input_batch_size=CONCURRENCY,
            # By default each row would carry its images as text from process to process and into the result.
            add_raw_input=False,
            add_raw_output=False,
        )
        load >> inspect

    def job() -> int:
        rows = pipeline.run(use_cache=False)["default"]["train"]
        return sum(answer is not None for answer in rows["generation"])

    measured(job, "distilabel")


if __name__ == "__main__":
    main()
