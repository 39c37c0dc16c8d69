"""One offline inspection under way: its turns so far, its images, its random choices."""

import re
from dataclasses import dataclass, field
from random import Random

from cot_builder.inspection.appearance import Look
from cot_builder.inspection.toolbox import Toolbox
from schemas.geometry import SCALE, Box
from schemas.sample import Sample
from schemas.trajectory import Observation, ToolCall, Trajectory, Turn, Verdict

FAINT = 2.2
"""Visibility (contrast over noise) below which a place hardly stands apart."""


@dataclass
class Inspection:
    """One inspection under way: the turns so far, and the images the tools returned."""

    look: Look
    toolbox: Toolbox
    rng: Random
    name: str
    sample: Sample
    has_priors: bool
    max_calls: int
    turns: list[Turn] = field(default_factory=list)
    images: dict[str, bytes] = field(default_factory=dict)
    thought: list[str] = field(default_factory=list)
    """Sentences of the turn being written."""

    def say(self, *sentences: str) -> None:
        """Add sentences to the current thought."""
        self.thought += [re.sub(r",\s*([,.;:])", r"\1", text) for text in sentences if text]

    def call(self, call: ToolCall) -> Observation:
        """End the current thought with a call, and run it."""
        observation, png = self.toolbox.observe(call)
        return self.record(call, observation, png)

    def record(self, call: ToolCall, observation: Observation, png: bytes | None) -> Observation:
        """End the current thought with a call that has been run."""
        if observation.image_sha256 and png is not None:
            self.images[observation.image_sha256] = png
        self.turns.append(Turn(thought=" ".join(self.thought), call=call, observation=observation))
        self.thought = []
        return observation

    def conclude(self, verdict: Verdict) -> Trajectory:
        """End with the verdict."""
        self.turns.append(Turn(thought=" ".join(self.thought)))
        return Trajectory(turns=self.turns, verdict=verdict)

    @property
    def calls_left(self) -> int:
        return self.max_calls - len(self.turns)

    def chance(self, probability: float) -> bool:
        """True with ``probability``."""
        return self.rng.random() < probability


def round_outwards(box: Box) -> Box:
    """The box on a grid of ten, outwards: people do not name regions to the unit."""
    x1, y1, x2, y2 = box
    return x1 // 10 * 10, y1 // 10 * 10, min(-(-x2 // 10) * 10, SCALE), min(-(-y2 // 10) * 10, SCALE)
