"""The endpoint teacher: describe, run the tools, compose, gate and correct, audit, judge.

The model writes the thoughts; the tool results are real. Supervision appears only in the private prompt: the requests
that audit, judge and answer blind never contain it.
"""

import asyncio
import json
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from statistics import fmean
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from cot_builder.endpoint.client import EndpointClient
from cot_builder.endpoint.images import ImageSource, make_query_image
from cot_builder.endpoint.replies import Answer, NotAnsweredError
from cot_builder.endpoint.request import ImageFile, Message, Request
from cot_builder.inspection.names import category_name
from cot_builder.inspection.rendering import render_verdict
from cot_builder.inspection.toolbox import Toolbox, tool_schemas
from cot_builder.params import Draft as DraftParams
from cot_builder.params import Teacher
from cot_builder.storage.header import read_header
from cot_builder.teacher.forms import (
    Audit,
    Blind,
    Composition,
    Description,
    PlannedCall,
    PriorText,
    Scores,
    describe_schema,
    read_form,
    response_format,
)
from cot_builder.teacher.gates import Case, run_gates
from cot_builder.teacher.gates.gate import AUDIT, JUDGE, UNFINISHED
from cot_builder.teacher.leaks import find_leaks, replace_category_name
from cot_builder.teacher.prompts import fill
from schemas.prior import NormalcyPrior
from schemas.sample import Sample
from schemas.supervision import Supervision
from schemas.taxonomy import describe, leaves
from schemas.trajectory import Observation, ToolCall, Trajectory, Turn, Verdict, Violation

Form = TypeVar("Form", bound=BaseModel)
Result = TypeVar("Result")
FORM_GATE = "form"
"""Name, among the gates that sent a draft back, for an answer that forms no valid trajectory."""
MAX_SCORE = 5
MIN_PRIOR_CHARS, MAX_PRIOR_CHARS = 200, 2000
"""Limits of the length of a prior's text, in characters."""


@dataclass(frozen=True)
class DraftContext:
    """A sample with all inputs that the teacher needs to draft it."""

    sample: Sample
    supervision: Supervision
    images: ImageSource
    priors: Mapping[tuple[str, str], str]
    teacher: Teacher
    params: DraftParams


@dataclass
class Attempt:
    """State and result of drafting one candidate."""

    candidate: int
    trajectory: Trajectory | None = None
    images: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, ImageFile] = field(default_factory=dict)
    """The same images as :class:`ImageFile`, so that each is encoded once for composing, audit and judge."""
    violations: list[Violation] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    """One score per judge reading, 0 to 1."""
    corrections: int = 0
    sent_back_by: list[str] = field(default_factory=list)
    """Reasons for corrections, without repeats: names of gates, the audit, the form."""
    usd: float = 0.0
    failure: str = ""
    """Why there is no trajectory, and what was tried; empty if there is one."""


@dataclass
class DraftResult:
    """All candidates of one sample."""

    attempts: list[Attempt]
    blind_answer: Literal["Yes", "No"] | None = None


async def draft_with_endpoint(
    client: EndpointClient, context: DraftContext, ask_options: dict[str, bool]
) -> DraftResult:
    """Draft ``draft.candidates`` candidates. The best valid one has no violation; the others have the reason as one.

    Args:
        client: Client of the endpoint.
        context: The sample and the teacher's inputs.
        ask_options: Keyword arguments of :meth:`EndpointClient.ask`.

    Raises:
        CacheMissError: sending is off, and an answer is not in the store.
        IndusCotError: the run has to stop, or the sample's image is damaged.
    """
    query = make_query_image(context.sample, context.images)
    candidates = [
        _draft_candidate(client, context, query, candidate, ask_options)
        for candidate in range(context.params.candidates)
    ]
    blind_requests = [_ask_blind(client, context, query, ask_options)] if context.params.blind else []
    done: list[Any] = await _gather([*blind_requests, *candidates])
    blind, blind_usd = done[0] if blind_requests else (None, 0.0)
    attempts: list[Attempt] = done[len(blind_requests) :]
    attempts[0].usd += blind_usd
    _reject_all_but_best(attempts)
    return DraftResult(attempts, blind)


async def _gather(works: Sequence[Awaitable[Result]]) -> list[Result]:
    """Await all, and raise the first error only after all have ended, so that no paid answer is lost."""
    done = await asyncio.gather(*works, return_exceptions=True)
    for result in done:
        if isinstance(result, BaseException):
            raise result
    return done  # type: ignore[return-value]


async def write_prior_text(
    client: EndpointClient, teacher: Teacher, prior: NormalcyPrior, images: list[ImageFile]
) -> str:
    """Let the teacher describe a sound part, from several images of it in one request.

    Raises:
        NotAnsweredError: the teacher returned no usable text.
        CacheMissError: sending is off, and the answer is not in the store.
    """
    conversation = _Conversation(client, teacher, teacher.model, "prior_writer", 0, {})
    values = {"count": len(images), "category": category_name(prior.category), "view": prior.view, "facts": prior.text}
    conversation.add_user_turn(fill("prior", **values), images)
    problems: list[str] = []
    for _ in range(teacher.corrections + 1):
        text = " ".join((await conversation.fill_in("prior", PriorText)).text.split())
        leaked = find_leaks(replace_category_name(text, prior.category))
        if MIN_PRIOR_CHARS <= len(text) <= MAX_PRIOR_CHARS and not leaked:
            return text
        problem = (
            f"it says {leaked[0]!r}"
            if leaked
            else f"it has {len(text)} characters, {MIN_PRIOR_CHARS} to {MAX_PRIOR_CHARS} are due"
        )
        problems.append(problem)
        conversation.add_user_turn(fill("correct", violations=[problem]), [])
    raise NotAnsweredError(f"prior: {join_reasons(problems, '; then: ')}")


def join_reasons(reasons: Iterable[str], between: str) -> str:
    """Join ``reasons``; consecutive equal reasons are written once, with their count."""
    counted = [(reason, len(list(group))) for reason, group in groupby(reasons)]
    return between.join(f"{reason} ({count} times)" if count > 1 else reason for reason, count in counted)


class _Conversation:
    """A conversation in which the model fills in one form after another."""

    def __init__(
        self,
        client: EndpointClient,
        teacher: Teacher,
        model: str,
        system: str,
        candidate: int,
        ask_options: dict[str, bool],
    ):
        self._client = client
        self._teacher = teacher
        self._model = model
        self._candidate = candidate
        self._ask_options = ask_options
        self._messages: list[Message] = [{"role": "system", "content": fill(system)}]
        self._images: dict[str, ImageFile] = {}
        self.usd = 0.0

    def add_user_turn(self, text: str, images: list[ImageFile]) -> None:
        """Add a user turn: the images, then the text."""
        self._images |= {image.sha256: image for image in images}
        parts: list[Message] = [image.content_part for image in images]
        self._messages.append({"role": "user", "content": [*parts, {"type": "text", "text": text}]})

    async def fill_in(self, step: str, form: type[Form]) -> Form:
        """Ask the model to fill in ``form``; after an invalid answer ask again, at most ``teacher.corrections`` times.

        Raises:
            NotAnsweredError: every answer was refused, filtered, truncated or invalid.
        """
        shape = describe_schema(form) if self._teacher.structured != "schema" else "in the form that was asked for"
        if self._teacher.structured != "schema":
            self._append_text(f"Answer {shape}.")
        problems: list[str] = []
        for _ in range(self._teacher.corrections + 1):
            answer = await self._client.ask(self._request(step, form), **self._ask_options)
            self.usd += answer.usd
            try:
                filled = read_form(form, _require_complete(answer))
            except ValueError as error:
                problems.append(str(error))
                self._messages.append({"role": "assistant", "content": answer.text[:4000] or "(nothing)"})
                self._messages.append({"role": "user", "content": fill("repair", problem=error, shape=shape)})
                continue
            self._messages.append({"role": "assistant", "content": filled.model_dump_json()})
            return filled
        raise NotAnsweredError(
            f"{step}: {len(problems)} answers could not be used: {join_reasons(problems, '; then: ')[:600]}"
        )

    def _append_text(self, text: str) -> None:
        last = self._messages[-1]
        self._messages[-1] = last | {"content": [*last["content"], {"type": "text", "text": text}]}

    def _request(self, step: str, form: type[BaseModel]) -> Request:
        return Request(
            step=step,
            model=self._model,
            messages=list(self._messages),
            images=self._images,
            max_tokens=self._teacher.max_tokens,
            temperature=self._teacher.temperature,
            response_format=response_format(form, self._teacher.structured),
            candidate=self._candidate,
        )


def _require_complete(answer: Answer) -> str:
    reasons = {
        "length": "it was cut at the longest answer allowed: be briefer",
        "content_filter": "a content filter stopped it",
        "refusal": f"it was refused ({answer.text[:120]})",
    }
    if answer.finish_reason in reasons:
        raise ValueError(reasons[answer.finish_reason])
    return answer.text


# --- one candidate ------------------------------------------------------------------------------------


async def _draft_candidate(
    client: EndpointClient, context: DraftContext, query: ImageFile, candidate: int, ask_options: dict[str, bool]
) -> Attempt:
    attempt = Attempt(candidate)
    planning = _Conversation(client, context.teacher, context.teacher.model, "teacher", candidate, ask_options)
    writing = _Conversation(client, context.teacher, context.teacher.model, "teacher", candidate, ask_options)
    try:
        plan, calls, observations = await _plan_and_execute(planning, context, query, attempt)
        images = [query, *(_get_observation_image(attempt, item) for item in observations if item.image_sha256)]
        writing.add_user_turn(_compose_prompt(context, plan, calls, observations), images)
        await _compose(client, writing, context, query, attempt, calls, observations, ask_options)
    except NotAnsweredError as error:
        attempt.failure = str(error)
    attempt.usd += planning.usd + writing.usd
    return attempt


async def _plan_and_execute(
    conversation: _Conversation, context: DraftContext, query: ImageFile, attempt: Attempt
) -> tuple[Description, list[PlannedCall], list[Observation]]:
    """Let the model plan (stage 1), and run its tool calls. Failed calls go back once; calls that fail again are dropped."""
    sample = context.sample
    tools = [schema["function"] for schema in tool_schemas()]
    conversation.add_user_turn(
        fill(
            "describe",
            category=category_name(sample.category),
            category_id=sample.category,
            view=sample.view,
            finding=describe_finding(context.supervision),
            max_calls=context.params.max_calls,
            tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools),
        ),
        [query],
    )
    plan = await conversation.fill_in("describe", Description)
    done = await asyncio.to_thread(_run_calls, context, plan.calls, attempt)
    errors = [f"{call.tool}: {item.text}" for call, item in done if item.text.startswith("error:")]
    if errors:
        conversation.add_user_turn(fill("replan", errors=errors), [])
        plan = await conversation.fill_in("replan", Description)
        done = await asyncio.to_thread(_run_calls, context, plan.calls, attempt)
    good = [(call, item) for call, item in done if not item.text.startswith("error:")][: context.params.max_calls]
    return plan, [call for call, _ in good], [item for _, item in good]


def _run_calls(
    context: DraftContext, calls: list[PlannedCall], attempt: Attempt
) -> list[tuple[PlannedCall, Observation]]:
    if not calls:
        return []
    toolbox = Toolbox(context.images.pixels(context.sample), context.priors)
    done = []
    for call in calls:
        observation, png = toolbox.observe(tool_call(call))
        if png is not None and observation.image_sha256 is not None:
            attempt.images[observation.image_sha256] = png
        done.append((call, observation))
    return done


def tool_call(planned: PlannedCall) -> ToolCall:
    """Convert a planned call to a tool call with the arguments that are not null."""
    arguments = planned.model_dump(exclude={"tool", "why"}, exclude_none=True)
    return ToolCall(tool=planned.tool, arguments=arguments)


async def _compose(
    client: EndpointClient,
    conversation: _Conversation,
    context: DraftContext,
    query: ImageFile,
    attempt: Attempt,
    calls: list[PlannedCall],
    observations: list[Observation],
    ask_options: dict[str, bool],
) -> None:
    """Compose (stage 2), gate, audit and correct; leaves the last draft and its violations in ``attempt``."""
    for correction in range(context.teacher.corrections + 1):
        attempt.corrections = correction
        written = await conversation.fill_in("compose" if not correction else "correct", Composition)
        trajectory, problems = build_trajectory(written, calls, observations)
        if trajectory is not None:
            attempt.trajectory = trajectory
            attempt.violations = run_gates(Case(trajectory, context.sample, context.supervision, context.params))
            if not attempt.violations and context.teacher.audit:
                attempt.violations = await _run_audit(client, context, query, attempt, trajectory, ask_options)
            if not attempt.violations:
                await _run_judge(client, context, query, attempt, trajectory, ask_options)
                return
            problems = [f"{item.gate}: {item.reason}" for item in attempt.violations]
        names = [FORM_GATE] if trajectory is None else [item.gate for item in attempt.violations]
        attempt.sent_back_by = list(dict.fromkeys([*attempt.sent_back_by, *names]))
        conversation.add_user_turn(fill("correct", violations=problems), [])
    if attempt.trajectory is None:
        raise NotAnsweredError(f"compose: {context.teacher.corrections + 1} drafts had no valid form: {problems[0]}")


def _compose_prompt(
    context: DraftContext, plan: Description, calls: list[PlannedCall], observations: list[Observation]
) -> str:
    shown = [
        {
            "name": call.tool,
            "arguments": json.dumps(tool_call(call).arguments),
            "why": call.why,
            "text": item.text,
            "image": item.image_sha256 is not None,
        }
        for call, item in zip(calls, observations, strict=True)
    ]
    return fill(
        "compose",
        category=category_name(context.sample.category),
        view=context.sample.view,
        finding=describe_finding(context.supervision),
        seen=plan.seen,
        doubts="; ".join(plan.doubts) or "none",
        calls=shown,
        min_words=context.params.min_words,
        max_words=context.params.max_words,
        types=", ".join(leaves()),
    )


def build_trajectory(
    written: Composition, calls: list[PlannedCall], observations: list[Observation]
) -> tuple[Trajectory | None, list[str]]:
    """Build the trajectory of a composition and the tool results, or return None and the problems."""
    if len(written.thoughts) != len(calls) + 1:
        return None, [f"{len(written.thoughts)} thoughts for {len(calls)} calls: {len(calls) + 1} are due"]
    turns = [
        {"thought": thought.strip(), "call": tool_call(call), "observation": observation}
        for thought, call, observation in zip(written.thoughts, calls, observations, strict=False)
    ]
    turns.append({"thought": written.thoughts[-1].strip(), "call": None, "observation": None})
    try:
        verdict = Verdict(answer=written.answer, boxes=written.boxes, defect_type=written.type)  # type: ignore[arg-type]
        return Trajectory(turns=[Turn.model_validate(turn) for turn in turns], verdict=verdict), []
    except ValidationError as error:
        return None, [f"{'.'.join(map(str, item['loc']))} {item['msg']}".strip() for item in error.errors()]


def describe_finding(supervision: Supervision) -> str:
    """Describe the ground truth of the photograph for the private prompt."""
    if supervision.label == "normal":
        return "The part is sound: nothing on it is a defect."
    assert supervision.defect_type is not None
    places = ", ".join(str(list(box)) for box in supervision.boxes)
    where = f", at {places}" if places else ""
    return f"There is a defect of type {supervision.defect_type} ({describe(supervision.defect_type)}){where}."


# --- readings without supervision ---------------------------------------------------------------------


async def _ask_blind(
    client: EndpointClient, context: DraftContext, query: ImageFile, ask_options: dict[str, bool]
) -> tuple[Literal["Yes", "No"] | None, float]:
    """Ask for a verdict without supervision. Returns the answer, or None without one, and the cost in USD."""
    conversation = _Conversation(client, context.teacher, context.teacher.model, "reader", 0, ask_options)
    sample = context.sample
    conversation.add_user_turn(fill("blind", category=category_name(sample.category), view=sample.view), [query])
    try:
        return (await conversation.fill_in("blind", Blind)).answer, conversation.usd
    except NotAnsweredError:
        return None, conversation.usd


async def _run_audit(
    client: EndpointClient,
    context: DraftContext,
    query: ImageFile,
    attempt: Attempt,
    trajectory: Trajectory,
    ask_options: dict[str, bool],
) -> list[Violation]:
    """Let a reader that sees only the images and the draft list the ungrounded statements."""
    conversation = _Conversation(
        client, context.teacher, context.teacher.reader, "reader", attempt.candidate, ask_options
    )
    conversation.add_user_turn(*_build_reading("audit", context.sample, query, attempt, trajectory))
    try:
        audit = await conversation.fill_in("audit", Audit)
    finally:
        attempt.usd += conversation.usd
    return [
        Violation(gate=AUDIT, reason=f"thought {item.thought}, {item.quote!r}: {item.fault}")
        for item in audit.statements
        if item.fault != "none"
    ]


async def _run_judge(
    client: EndpointClient,
    context: DraftContext,
    query: ImageFile,
    attempt: Attempt,
    trajectory: Trajectory,
    ask_options: dict[str, bool],
) -> None:
    async def run_reading(number: int) -> Scores:
        # A distinct candidate number per reading: an equal request would return the stored answer.
        key = attempt.candidate * context.teacher.judge_readings + number
        conversation = _Conversation(client, context.teacher, context.teacher.reader, "reader", key, ask_options)
        conversation.add_user_turn(*_build_reading("judge", context.sample, query, attempt, trajectory))
        try:
            return await conversation.fill_in("judge", Scores)
        finally:
            attempt.usd += conversation.usd

    readings = await _gather([run_reading(number) for number in range(context.teacher.judge_readings)])
    attempt.scores = [
        (item.grounding + item.reasoning + item.tools + item.wording) / (4 * MAX_SCORE) for item in readings
    ]


def _build_reading(
    prompt: str, sample: Sample, query: ImageFile, attempt: Attempt, trajectory: Trajectory
) -> tuple[str, list[ImageFile]]:
    images = [query]
    turns: list[dict[str, Any]] = []
    for turn in trajectory.turns:
        shown: dict[str, Any] = {"thought": turn.thought, "call": "", "image": 0, "text": ""}
        if turn.call and turn.observation:
            shown |= {
                "call": f"{turn.call.tool}({json.dumps(turn.call.arguments)})",
                "text": turn.observation.text,
            }
            if turn.observation.image_sha256:
                images.append(_get_observation_image(attempt, turn.observation))
                shown["image"] = len(images)
        turns.append(shown)
    text = fill(
        prompt,
        category=category_name(sample.category),
        view=sample.view,
        turns=turns,
        verdict=render_verdict(trajectory.verdict),
    )
    return text, images


def _get_observation_image(attempt: Attempt, observation: Observation) -> ImageFile:
    digest = observation.image_sha256
    assert digest is not None
    if digest not in attempt.files:
        png = attempt.images[digest]
        header = read_header(png)
        attempt.files[digest] = ImageFile(digest, header.width, header.height, lambda: (png, "image/png"))
    return attempt.files[digest]


def _reject_all_but_best(attempts: list[Attempt]) -> None:
    """Add a violation to every valid candidate but the best, so that the others are kept as explained negatives."""
    valid = [item for item in attempts if item.trajectory is not None and not item.violations and not item.failure]
    for item in attempts:
        if item.trajectory is not None and item.failure:
            item.violations = [*item.violations, Violation(gate=UNFINISHED, reason=item.failure)]
    if not valid:
        return
    # Without judge readings there are no scores.
    score = {item.candidate: fmean(item.scores or [0.0]) for item in valid}
    best = max(valid, key=lambda item: (score[item.candidate], -item.candidate))
    for item in valid:
        if item is not best:
            reason = (
                f"candidate {best.candidate} scored {score[best.candidate]:.2f}, this one {score[item.candidate]:.2f}"
            )
            item.violations = [Violation(gate=JUDGE, reason=reason)]
