"""Replays the tool calls of a trajectory and compares the results with the recorded observations."""

import hashlib
import json
from collections.abc import Iterator, Sequence

import numpy as np

from cot_builder.inspection.toolbox import Toolbox
from cot_builder.storage.images import decode
from schemas.errors import IndusCotError
from schemas.trajectory import Trajectory, Turn


def replay(trajectory: Trajectory, toolbox: Toolbox, images: Sequence[bytes], where: str = "trajectory") -> int:
    """Run every tool call of a trajectory again and compare the results with the recorded ones.

    Texts must be equal, and images must be equal pixel by pixel. The stored image must have the recorded sha256. The
    replayed image may have another one, because another libpng may compress the same pixels differently.

    Args:
        trajectory: The recorded inspection.
        toolbox: The tools, bound to the inspected image and to the priors that the inspector had.
        images: The stored observation images as file bytes, in order, without the inspected image.
        where: File and row, for messages.

    Returns:
        Number of calls replayed.

    Raises:
        IndusCotError: a result differs (the message names the turn and tool), or more images are stored than the calls
            returned.
    """
    stored = iter(images)
    for number, turn in enumerate(trajectory.turns[:-1], 1):
        assert turn.call is not None
        call = f"{turn.call.tool}({json.dumps(turn.call.arguments)})"
        _replay_turn(turn, toolbox, stored, f"{where}, turn {number}, {call}")
    if next(stored, None) is not None:
        raise IndusCotError(f"{where}: has more stored images than its calls returned")
    return len(trajectory.calls)


def _replay_turn(turn: Turn, toolbox: Toolbox, stored: Iterator[bytes], where: str) -> None:
    assert turn.call is not None and turn.observation is not None
    recorded = turn.observation
    replayed, png = toolbox.observe(turn.call)
    if replayed.text != recorded.text:
        raise IndusCotError(f"{where}: the tool returns {replayed.text!r}, but {recorded.text!r} is recorded")
    if (png is None) != (recorded.image_sha256 is None):
        kind, other = ("an image", "none") if png is None else ("no image", "one")
        raise IndusCotError(f"{where}: {kind} is recorded, but the tool returns {other}")
    if png is None:
        return
    kept = next(stored, None)
    if kept is None:
        raise IndusCotError(f"{where}: the stored image is missing")
    if hashlib.sha256(kept).hexdigest() != recorded.image_sha256:
        raise IndusCotError(f"{where}: the stored image does not have the recorded sha256")
    if not np.array_equal(decode(kept, name=where), decode(png, name=where)):
        raise IndusCotError(f"{where}: the image that the tool returns differs from the stored image")
