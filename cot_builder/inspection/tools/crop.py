"""The tool crop: an enlarged view of a region, by default the most conspicuous one."""

import numpy as np

from cot_builder.inspection.proposals import propose
from cot_builder.inspection.tools.regions import check_region, view
from cot_builder.inspection.tools.tool import CLAIM, ToolResult, tool


@tool(
    version=5,
    mentions=r"\bcrop|\benlarg|\bclose-up|\bmagnif|\bzoom",
    results=(
        rf"\b(?:crop|close-up|enlarged (?:view|region|area)|enlargement)\b[^.;]{{0,40}}\b{CLAIM}\b"
        r"|\benlarged,|\bseen close"
    ),
    returns_image=True,
)
def crop(image: np.ndarray, region: list[int] | None = None) -> ToolResult:
    """Look at a region of the image, small ones enlarged.

    Args:
        image: The inspected image.
        region: Box [x1, y1, x2, y2], integers 0-1000 of the original image. Leave it out to see the most conspicuous
            foreground region.

    Raises:
        ToolError: the region is no box in 0-1000.
    """
    if region is None:
        proposal = propose(image, 1)[0]
        box, found = proposal.box, f" (found by {proposal.method} proposal)"
    else:
        box, found = check_region(region), ""
    pixels, shown, size = view(image, box)
    return ToolResult(f"Crop of {list(shown)}{found}: {size}.", pixels)
