"""Give the inspector a tool of your own, in one file: how often the grey levels of a region occur.

Runs on its own: `.venv/bin/python examples/own_tool.py`. To use the tool in drafts, training and evaluation too, put
the function into a file of its own in `cot_builder/inspection/tools/`: every file of that folder is found.
"""

import json

import cv2
import numpy as np

from indus_cot import Toolbox, ToolError, ToolResult, read_completion, tool, tool_schemas

BANDS = ("black", "dark", "middle", "bright", "white")


# `mentions` and `results` say with which words a thought speaks of the tool; gates hold drafts to them. `version` is
# one more than TOOLBOX_VERSION, because recorded observations name the tools that made them.
@tool(version=6, mentions=r"\bhistogram|\bgrey levels?\b", results=r"\bhistogram (?:shows|peaks)\b")
def histogram(image: np.ndarray, region: list[int] | None = None) -> ToolResult:
    """Count the grey levels of a region in five bands from black to white.

    Args:
        image: The inspected image; the toolbox fills it in, and no model sees this parameter.
        region: Box [x1, y1, x2, y2], integers 0-1000 of the original image. Leave it out for the whole image.
    """
    x1, y1, x2, y2 = region or [0, 0, 1000, 1000]
    if not (0 <= x1 < x2 <= 1000 and 0 <= y1 < y2 <= 1000):
        # The text goes back to the model: it says what to change.
        raise ToolError(f"region must be a box [x1, y1, x2, y2] in 0-1000; got {region}")
    height, width = image.shape[:2]
    part = image[y1 * height // 1000 : -(-y2 * height // 1000), x1 * width // 1000 : -(-x2 * width // 1000)]
    counts = np.histogram(cv2.cvtColor(part, cv2.COLOR_BGR2GRAY), bins=len(BANDS), range=(0, 256))[0]
    shares = ", ".join(f"{name} {share:.0%}" for name, share in zip(BANDS, counts / counts.sum(), strict=True))
    return ToolResult(f"Grey levels: {shares}.")


if __name__ == "__main__":
    picture = np.full((200, 300, 3), 180, np.uint8)
    picture[80:120, 100:140] = 20
    toolbox = Toolbox(picture)
    print(json.dumps(tool_schemas()[-1]["function"], indent=1))
    print(toolbox.call("histogram").text)
    print(toolbox.call("histogram", region=[330, 400, 470, 600]).text)
    said = '<think>The grey levels will tell.</think><tool_call>{"name": "histogram", "arguments": {}}</tool_call>'
    print(read_completion(said).calls)
