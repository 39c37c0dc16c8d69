"""Indus-CoT for Python programs: corpora, inspection tools, rewards and metrics.

Names are imported when they are first used, so that ``import indus_cot`` takes no time. Coordinates are integers
0-1000 relative to the original image, boxes are ``[x1, y1, x2, y2]``, and pixels are uint8 (height, width, 3) in BGR
order unless a docstring says otherwise. Every error that a user can mend is an :class:`IndusCotError`.

- Corpora: :func:`load_corpus`, :class:`Corpus`, :class:`Inspection`, :func:`verify_corpus`.
- Tools: :class:`Toolbox`, :class:`ToolCall`, :class:`ToolResult`, :class:`ToolError`, :func:`tool_schemas`, and the
  decorator :func:`tool` for a tool of your own.
- Texts of a model: :func:`prompt`, :func:`read_completion`, :class:`Completion`, :func:`parse_by_rules`.
- Trajectories: :class:`Trajectory`, :class:`Turn`, :class:`Observation`, :class:`Verdict`, :func:`replay`.
- Training elsewhere: :mod:`rewards <train.rewards>`, the decorator :func:`reward_term`,
  :class:`InspectionEnvironment` and :data:`RESPONSE_TEMPLATE` for TRL.
- Figures: :func:`score_predictions`, :class:`Metrics`, :class:`Prediction`, and the decorator :func:`figure`.
- Rows: :class:`IndusCot`, a row of the corpus as it is stored.

Example:
    >>> from indus_cot import Toolbox
    >>> Toolbox.open("part.png").call("measure", points=[[100, 200], [300, 200]]).text
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cot_builder.inspection.completion import Completion, read_completion
    from cot_builder.inspection.parsing import RESPONSE_TEMPLATE
    from cot_builder.inspection.rendering import prompt
    from cot_builder.inspection.replay import replay
    from cot_builder.inspection.toolbox import Toolbox, tool_schemas
    from cot_builder.inspection.tools.tool import ToolError, ToolResult, tool
    from cot_builder.publishing.loading import Corpus, Inspection, load_corpus
    from cot_builder.stages.verify import verify as verify_corpus
    from eval.metrics.figure import figure
    from eval.parse import parse_by_rules
    from eval.rescore import score_predictions
    from schemas.errors import IndusCotError
    from schemas.indus_cot import IndusCot
    from schemas.metrics import Metrics
    from schemas.prediction import Prediction
    from schemas.trajectory import Observation, ToolCall, Trajectory, Turn, Verdict
    from train import rewards
    from train.environment import InspectionEnvironment
    from train.rewards.term import reward_term

__all__ = [
    "RESPONSE_TEMPLATE",
    "Completion",
    "Corpus",
    "IndusCot",
    "IndusCotError",
    "Inspection",
    "InspectionEnvironment",
    "Metrics",
    "Observation",
    "Prediction",
    "ToolCall",
    "ToolError",
    "ToolResult",
    "Toolbox",
    "Trajectory",
    "Turn",
    "Verdict",
    "figure",
    "load_corpus",
    "parse_by_rules",
    "prompt",
    "read_completion",
    "replay",
    "reward_term",
    "rewards",
    "score_predictions",
    "tool",
    "tool_schemas",
    "verify_corpus",
]

_PLACES = {
    "Completion": "cot_builder.inspection.completion:Completion",
    "Corpus": "cot_builder.publishing.loading:Corpus",
    "IndusCot": "schemas.indus_cot:IndusCot",
    "IndusCotError": "schemas.errors:IndusCotError",
    "Inspection": "cot_builder.publishing.loading:Inspection",
    "InspectionEnvironment": "train.environment:InspectionEnvironment",
    "Metrics": "schemas.metrics:Metrics",
    "Observation": "schemas.trajectory:Observation",
    "Prediction": "schemas.prediction:Prediction",
    "RESPONSE_TEMPLATE": "cot_builder.inspection.parsing:RESPONSE_TEMPLATE",
    "ToolCall": "schemas.trajectory:ToolCall",
    "ToolError": "cot_builder.inspection.tools.tool:ToolError",
    "ToolResult": "cot_builder.inspection.tools.tool:ToolResult",
    "Toolbox": "cot_builder.inspection.toolbox:Toolbox",
    "Trajectory": "schemas.trajectory:Trajectory",
    "Turn": "schemas.trajectory:Turn",
    "Verdict": "schemas.trajectory:Verdict",
    "figure": "eval.metrics.figure:figure",
    "load_corpus": "cot_builder.publishing.loading:load_corpus",
    "parse_by_rules": "eval.parse:parse_by_rules",
    "prompt": "cot_builder.inspection.rendering:prompt",
    "read_completion": "cot_builder.inspection.completion:read_completion",
    "replay": "cot_builder.inspection.replay:replay",
    "reward_term": "train.rewards.term:reward_term",
    "rewards": "train.rewards",
    "score_predictions": "eval.rescore:score_predictions",
    "tool": "cot_builder.inspection.tools.tool:tool",
    "tool_schemas": "cot_builder.inspection.toolbox:tool_schemas",
    "verify_corpus": "cot_builder.stages.verify:verify",
}
"""Where each name is defined: ``module:attribute``, or a module. A test compares them with the imports above."""

if not TYPE_CHECKING:
    # Hidden from type checkers: they would accept any name of this module.
    def __getattr__(name: str) -> object:
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}; there are {', '.join(__all__)}")
        module, _, attribute = _PLACES[name].partition(":")
        value = import_module(module)
        if attribute:
            value = getattr(value, attribute)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return [*globals(), *__all__]
