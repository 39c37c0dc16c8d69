"""Look at one picture with the tools that the inspector has, print what they return, and save what they show.

Runs on its own: `.venv/bin/python examples/inspect_one_image.py [PICTURE] [FOLDER]`. Without a picture it draws one.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from indus_cot import Toolbox, ToolCall

CALLS = [
    ToolCall(tool="crop", arguments={"region": [400, 400, 700, 700]}),
    ToolCall(tool="crop", arguments={}),  # without a region: the most conspicuous one
    ToolCall(tool="enhance", arguments={"operator": "residual"}),
    ToolCall(tool="measure", arguments={"points": [[480, 500], [620, 560]]}),
    ToolCall(tool="prior", arguments={"category": "plate"}),
    ToolCall(tool="crop", arguments={"region": [700, 700, 400, 400]}),  # refused, and the observation says why
]
# The tool `prior` looks up texts like this one. `indus-cot prior` measures them on normal images.
PRIORS = {("plate", "default"): "A sound plate is an evenly grey square with sharp edges."}


def draw_plate() -> Image.Image:
    """A grey plate with a short dark scratch."""
    noise = np.random.default_rng(7).normal(150, 4, (640, 640, 1)).repeat(3, axis=2)
    picture = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
    ImageDraw.Draw(picture).line([(307, 320), (396, 358)], fill=(60, 60, 65), width=3)
    return picture


def main(picture: str | None = None, folder: str = "inspected") -> None:
    """Run every call on the picture and save the images that come back."""
    toolbox = Toolbox.open(picture or draw_plate(), PRIORS)
    Path(folder).mkdir(exist_ok=True)
    for number, call in enumerate(CALLS, 1):
        observation, png = toolbox.observe(call)
        print(f"{number}. {call.tool} {call.arguments}\n   {observation.text}")
        if png:
            path = Path(folder, f"{number}_{call.tool}.png")
            path.write_bytes(png)
            print(f"   saved as {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
