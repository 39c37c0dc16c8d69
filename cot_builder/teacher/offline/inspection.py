"""State of one offline inspection: turns so far, images, random choices."""

import re
from dataclasses import dataclass, field
from random import Random

from cot_builder.inspection.appearance import MeasuredImage
from cot_builder.inspection.toolbox import Toolbox
from schemas.geometry import SCALE, Box
from schemas.sample import Sample
from schemas.trajectory import Observation, ToolCall, Trajectory, Turn, Verdict

FAINT = 2.2
"""Visibility (contrast over noise) below which a place hardly differs from its surroundings."""


@dataclass
class Inspection:
    """State of one inspection: the turns so far, and the images that the tools returned."""

    look: MeasuredImage
    toolbox: Toolbox
    rng: Random
    name: str
    sample: Sample
    has_priors: bool
    max_calls: int
    turns: list[Turn] = field(default_factory=list)
    images: dict[str, bytes] = field(default_factory=dict)
    thought: list[str] = field(default_factory=list)
    """Sentences of the current turn."""

    def say(self, *sentences: str) -> None:
        """Add sentences to the current thought."""
        self.thought += [re.sub(r",\s*([,.;:])", r"\1", text) for text in sentences if text]

    def call(self, call: ToolCall) -> Observation:
        """Run a call, and end the current thought with it."""
        observation, png = self.toolbox.observe(call)
        return self.record(call, observation, png)

    def record(self, call: ToolCall, observation: Observation, png: bytes | None) -> Observation:
        """End the current thought with a call that has already been run."""
        if observation.image_sha256 and png is not None:
            self.images[observation.image_sha256] = png
        self.turns.append(Turn(thought=" ".join(self.thought), call=call, observation=observation))
        self.thought = []
        return observation

    def conclude(self, verdict: Verdict) -> Trajectory:
        """End the inspection with the verdict, and return the trajectory."""
        self.turns.append(Turn(thought=" ".join(self.thought)))
        return Trajectory(turns=self.turns, verdict=verdict)

    @property
    def calls_left(self) -> int:
        return self.max_calls - len(self.turns)

    def chance(self, probability: float) -> bool:
        """Return True with ``probability``."""
        return self.rng.random() < probability


def round_outwards(box: Box) -> Box:
    """Round a box outwards to a grid of ten: people do not name regions to the single unit."""
    x1, y1, x2, y2 = box
    return x1 // 10 * 10, y1 // 10 * 10, min(-(-x2 // 10) * 10, SCALE), min(-(-y2 // 10) * 10, SCALE)
