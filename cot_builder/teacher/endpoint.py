"""The endpoint teacher: describe, execute, compose, gate and correct, audit, judge.

It writes the thoughts; the tools' results are real. Supervision stays in its private prompt: the readings that
audit, judge and answer blind never see it.
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
from cot_builder.inspection.rendering import verdict_text
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
    in_words,
    read_form,
    response_format,
)
from cot_builder.teacher.gates import Case, run_gates
from cot_builder.teacher.gates.gate import AUDIT, JUDGE, UNFINISHED
from cot_builder.teacher.leaks import leaks, without_name
from cot_builder.teacher.prompts import fill
from schemas.prior import NormalcyPrior
from schemas.sample import Sample
from schemas.supervision import Supervision
from schemas.taxonomy import describe, leaves
from schemas.trajectory import Observation, ToolCall, Trajectory, Turn, Verdict, Violation

Form = TypeVar("Form", bound=BaseModel)
Result = TypeVar("Result")
FORM = "form"
"""Stands for an answer that makes no trajectory, among the gates that sent a draft back."""
BEST_SCORE = 5
LEAST_PRIOR, MOST_PRIOR = 200, 2000
"""Characters of a prior's text."""


@dataclass(frozen=True)
class Lesson:
    """One sample, with what the teacher needs to write an example of it."""

    sample: Sample
    supervision: Supervision
    images: ImageSource
    priors: Mapping[tuple[str, str], str]
    teacher: Teacher
    params: DraftParams


@dataclass
class Attempt:
    """One candidate: how far it came."""

    candidate: int
    trajectory: Trajectory | None = None
    images: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, ImageFile] = field(default_factory=dict)
    """The same images as they are sent: encoded once for composing, audit and judge."""
    violations: list[Violation] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    """One a reading of the judge, 0 to 1."""
    corrections: int = 0
    sent_back_by: list[str] = field(default_factory=list)
    """Gates, the audit, the form: what a correction was asked for, once each."""
    usd: float = 0.0
    failure: str = ""
    """Why there is no trajectory, and what was tried."""


@dataclass
class Drafted:
    """All candidates of a sample."""

    attempts: list[Attempt]
    blind_answer: Literal["Yes", "No"] | None = None


async def draft_with_endpoint(client: EndpointClient, lesson: Lesson, ask: dict[str, bool]) -> Drafted:
    """Draft ``draft.candidates`` candidates; the best valid one has no violation, all others say why they lost.

    Args:
        client: The endpoint.
        lesson: The sample.
        ask: Keywords of :meth:`EndpointClient.ask`.

    Raises:
        CacheMissError: nothing is being sent, and an answer is not in the store.
        IndusCotError: the run has to stop; the sample's image is damaged.
    """
    query = make_query_image(lesson.sample, lesson.images)
    candidates = [_attempt(client, lesson, query, candidate, ask) for candidate in range(lesson.params.candidates)]
    asked = [_blind(client, lesson, query, ask)] if lesson.params.blind else []
    done: list[Any] = await _together([*asked, *candidates])
    blind, blind_usd = done[0] if asked else (None, 0.0)
    attempts: list[Attempt] = done[len(asked) :]
    attempts[0].usd += blind_usd
    _choose(attempts)
    return Drafted(attempts, blind)


async def _together(works: Sequence[Awaitable[Result]]) -> list[Result]:
    """Results of all; an error is raised only once none is under way, so that no answer is cut off."""
    done = await asyncio.gather(*works, return_exceptions=True)
    for result in done:
        if isinstance(result, BaseException):
            raise result
    return done  # type: ignore[return-value]


async def word_prior(client: EndpointClient, teacher: Teacher, prior: NormalcyPrior, images: list[ImageFile]) -> str:
    """What a sound part looks like, in the teacher's words, from several images of it in one request.

    Raises:
        NotAnsweredError: no usable text came back.
        CacheMissError: nothing is being sent, and no answer is kept.
    """
    talk = _Talk(client, teacher, teacher.model, "prior_writer", 0, {})
    told = {"count": len(images), "category": category_name(prior.category), "view": prior.view, "facts": prior.text}
    talk.tell(fill("prior", **told), images)
    problems: list[str] = []
    for _ in range(teacher.corrections + 1):
        text = " ".join((await talk.fill_in("prior", PriorText)).text.split())
        said = leaks(without_name(text, prior.category))
        if LEAST_PRIOR <= len(text) <= MOST_PRIOR and not said:
            return text
        problem = (
            f"it says {said[0]!r}" if said else f"it has {len(text)} characters, {LEAST_PRIOR} to {MOST_PRIOR} are due"
        )
        problems.append(problem)
        talk.tell(fill("correct", violations=[problem]), [])
    raise NotAnsweredError(f"prior: {in_a_row(problems, '; then: ')}")


def in_a_row(reasons: Iterable[str], between: str) -> str:
    """``reasons`` joined; equal ones in a row are told once, with how often."""
    counted = [(reason, len(list(group))) for reason, group in groupby(reasons)]
    return between.join(f"{reason} ({count} times)" if count > 1 else reason for reason, count in counted)


class _Talk:
    """A conversation that is asked to fill in one form after another."""

    def __init__(
        self, client: EndpointClient, teacher: Teacher, model: str, system: str, candidate: int, ask: dict[str, bool]
    ):
        self._client = client
        self._teacher = teacher
        self._model = model
        self._candidate = candidate
        self._ask = ask
        self._messages: list[Message] = [{"role": "system", "content": fill(system)}]
        self._images: dict[str, ImageFile] = {}
        self.usd = 0.0

    def tell(self, text: str, images: list[ImageFile]) -> None:
        """Add a user turn: images, then text."""
        self._images |= {image.sha256: image for image in images}
        parts: list[Message] = [image.content_part for image in images]
        self._messages.append({"role": "user", "content": [*parts, {"type": "text", "text": text}]})

    async def fill_in(self, step: str, form: type[Form]) -> Form:
        """Ask for ``form``; an answer that cannot be read is asked for again, ``teacher.corrections`` times at most.

        Raises:
            NotAnsweredError: it was refused, filtered, or never readable.
        """
        shape = in_words(form) if self._teacher.structured != "schema" else "in the form that was asked for"
        if self._teacher.structured != "schema":
            self._append_text(f"Answer {shape}.")
        problems: list[str] = []
        for _ in range(self._teacher.corrections + 1):
            answer = await self._client.ask(self._request(step, form), **self._ask)
            self.usd += answer.usd
            try:
                filled = read_form(form, _whole(answer))
            except ValueError as error:
                problems.append(str(error))
                self._messages.append({"role": "assistant", "content": answer.text[:4000] or "(nothing)"})
                self._messages.append({"role": "user", "content": fill("repair", problem=error, shape=shape)})
                continue
            self._messages.append({"role": "assistant", "content": filled.model_dump_json()})
            return filled
        raise NotAnsweredError(
            f"{step}: {len(problems)} answers could not be used: {in_a_row(problems, '; then: ')[:600]}"
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


def _whole(answer: Answer) -> str:
    reasons = {
        "length": "it was cut at the longest answer allowed: be briefer",
        "content_filter": "a content filter stopped it",
        "refusal": f"it was refused ({answer.text[:120]})",
    }
    if answer.finish_reason in reasons:
        raise ValueError(reasons[answer.finish_reason])
    return answer.text


# --- one candidate ------------------------------------------------------------------------------------


async def _attempt(
    client: EndpointClient, lesson: Lesson, query: ImageFile, candidate: int, ask: dict[str, bool]
) -> Attempt:
    attempt = Attempt(candidate)
    planning = _Talk(client, lesson.teacher, lesson.teacher.model, "teacher", candidate, ask)
    writing = _Talk(client, lesson.teacher, lesson.teacher.model, "teacher", candidate, ask)
    try:
        plan, calls, observations = await _plan_and_execute(planning, lesson, query, attempt)
        images = [query, *(_observed(attempt, item) for item in observations if item.image_sha256)]
        writing.tell(_compose_prompt(lesson, plan, calls, observations), images)
        await _compose(client, writing, lesson, query, attempt, calls, observations, ask)
    except NotAnsweredError as error:
        attempt.failure = str(error)
    attempt.usd += planning.usd + writing.usd
    return attempt


async def _plan_and_execute(
    talk: _Talk, lesson: Lesson, query: ImageFile, attempt: Attempt
) -> tuple[Description, list[PlannedCall], list[Observation]]:
    """Stage 1 and the real tool calls; refused calls go back once, and are left out if refused again."""
    sample = lesson.sample
    tools = [schema["function"] for schema in tool_schemas()]
    talk.tell(
        fill(
            "describe",
            category=category_name(sample.category),
            category_id=sample.category,
            view=sample.view,
            finding=finding(lesson.supervision),
            max_calls=lesson.params.max_calls,
            tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools),
        ),
        [query],
    )
    plan = await talk.fill_in("describe", Description)
    done = await asyncio.to_thread(_execute, lesson, plan.calls, attempt)
    errors = [f"{call.tool}: {item.text}" for call, item in done if item.text.startswith("error:")]
    if errors:
        talk.tell(fill("replan", errors=errors), [])
        plan = await talk.fill_in("replan", Description)
        done = await asyncio.to_thread(_execute, lesson, plan.calls, attempt)
    good = [(call, item) for call, item in done if not item.text.startswith("error:")][: lesson.params.max_calls]
    return plan, [call for call, _ in good], [item for _, item in good]


def _execute(lesson: Lesson, calls: list[PlannedCall], attempt: Attempt) -> list[tuple[PlannedCall, Observation]]:
    if not calls:
        return []
    toolbox = Toolbox(lesson.images.pixels(lesson.sample), lesson.priors)
    done = []
    for call in calls:
        observation, png = toolbox.observe(tool_call(call))
        if png is not None and observation.image_sha256 is not None:
            attempt.images[observation.image_sha256] = png
        done.append((call, observation))
    return done


def tool_call(planned: PlannedCall) -> ToolCall:
    """The call with the arguments that were given."""
    arguments = planned.model_dump(exclude={"tool", "why"}, exclude_none=True)
    return ToolCall(tool=planned.tool, arguments=arguments)


async def _compose(
    client: EndpointClient,
    talk: _Talk,
    lesson: Lesson,
    query: ImageFile,
    attempt: Attempt,
    calls: list[PlannedCall],
    observations: list[Observation],
    ask: dict[str, bool],
) -> None:
    """Stage 2, gates, audit and corrections; leaves the last draft in ``attempt`` with what is wrong with it."""
    for round_ in range(lesson.teacher.corrections + 1):
        attempt.corrections = round_
        written = await talk.fill_in("compose" if not round_ else "correct", Composition)
        trajectory, problems = build(written, calls, observations)
        if trajectory is not None:
            attempt.trajectory = trajectory
            attempt.violations = run_gates(Case(trajectory, lesson.sample, lesson.supervision, lesson.params))
            if not attempt.violations and lesson.teacher.audit:
                attempt.violations = await _audit(client, lesson, query, attempt, trajectory, ask)
            if not attempt.violations:
                await _judge(client, lesson, query, attempt, trajectory, ask)
                return
            problems = [f"{item.gate}: {item.reason}" for item in attempt.violations]
        names = [FORM] if trajectory is None else [item.gate for item in attempt.violations]
        attempt.sent_back_by = list(dict.fromkeys([*attempt.sent_back_by, *names]))
        talk.tell(fill("correct", violations=problems), [])
    if attempt.trajectory is None:
        raise NotAnsweredError(f"compose: {lesson.teacher.corrections + 1} drafts had no valid form: {problems[0]}")


def _compose_prompt(
    lesson: Lesson, plan: Description, calls: list[PlannedCall], observations: list[Observation]
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
        category=category_name(lesson.sample.category),
        view=lesson.sample.view,
        finding=finding(lesson.supervision),
        seen=plan.seen,
        doubts="; ".join(plan.doubts) or "none",
        calls=shown,
        min_words=lesson.params.min_words,
        max_words=lesson.params.max_words,
        types=", ".join(leaves()),
    )


def build(
    written: Composition, calls: list[PlannedCall], observations: list[Observation]
) -> tuple[Trajectory | None, list[str]]:
    """The trajectory a composition makes with what the tools returned, or None and why it makes none."""
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


def finding(supervision: Supervision) -> str:
    """What the private prompt says is true of the photograph."""
    if supervision.label == "normal":
        return "The part is sound: nothing on it is a defect."
    assert supervision.defect_type is not None
    places = ", ".join(str(list(box)) for box in supervision.boxes)
    where = f", at {places}" if places else ""
    return f"There is a defect of type {supervision.defect_type} ({describe(supervision.defect_type)}){where}."


# --- readings without supervision ---------------------------------------------------------------------


async def _blind(
    client: EndpointClient, lesson: Lesson, query: ImageFile, ask: dict[str, bool]
) -> tuple[Literal["Yes", "No"] | None, float]:
    """The answer given without supervision, None where there is none, and what it cost."""
    talk = _Talk(client, lesson.teacher, lesson.teacher.model, "reader", 0, ask)
    sample = lesson.sample
    talk.tell(fill("blind", category=category_name(sample.category), view=sample.view), [query])
    try:
        return (await talk.fill_in("blind", Blind)).answer, talk.usd
    except NotAnsweredError:
        return None, talk.usd


async def _audit(
    client: EndpointClient,
    lesson: Lesson,
    query: ImageFile,
    attempt: Attempt,
    trajectory: Trajectory,
    ask: dict[str, bool],
) -> list[Violation]:
    """Ungrounded statements, as a reader who knows only the images finds them."""
    talk = _Talk(client, lesson.teacher, lesson.teacher.reader, "reader", attempt.candidate, ask)
    talk.tell(*_reading("audit", lesson.sample, query, attempt, trajectory))
    try:
        audit = await talk.fill_in("audit", Audit)
    finally:
        attempt.usd += talk.usd
    return [
        Violation(gate=AUDIT, reason=f"thought {item.thought}, {item.quote!r}: {item.fault}")
        for item in audit.statements
        if item.fault != "none"
    ]


async def _judge(
    client: EndpointClient,
    lesson: Lesson,
    query: ImageFile,
    attempt: Attempt,
    trajectory: Trajectory,
    ask: dict[str, bool],
) -> None:
    async def reading(number: int) -> Scores:
        # A number of its own for every reading: an equal request would return the kept answer.
        own = attempt.candidate * lesson.teacher.judge_readings + number
        talk = _Talk(client, lesson.teacher, lesson.teacher.reader, "reader", own, ask)
        talk.tell(*_reading("judge", lesson.sample, query, attempt, trajectory))
        try:
            return await talk.fill_in("judge", Scores)
        finally:
            attempt.usd += talk.usd

    readings = await _together([reading(number) for number in range(lesson.teacher.judge_readings)])
    attempt.scores = [
        (item.grounding + item.reasoning + item.tools + item.wording) / (4 * BEST_SCORE) for item in readings
    ]


def _reading(
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
                images.append(_observed(attempt, turn.observation))
                shown["image"] = len(images)
        turns.append(shown)
    text = fill(
        prompt,
        category=category_name(sample.category),
        view=sample.view,
        turns=turns,
        verdict=verdict_text(trajectory.verdict),
    )
    return text, images


def _observed(attempt: Attempt, observation: Observation) -> ImageFile:
    digest = observation.image_sha256
    assert digest is not None
    if digest not in attempt.files:
        png = attempt.images[digest]
        header = read_header(png)
        attempt.files[digest] = ImageFile(digest, header.width, header.height, lambda: (png, "image/png"))
    return attempt.files[digest]


def _choose(attempts: list[Attempt]) -> None:
    """Leave the best valid candidate without violation; the others are kept as negatives that say why."""
    valid = [item for item in attempts if item.trajectory is not None and not item.violations and not item.failure]
    for item in attempts:
        if item.trajectory is not None and item.failure:
            item.violations = [*item.violations, Violation(gate=UNFINISHED, reason=item.failure)]
    if not valid:
        return
    # None has a score where the judge reads nothing.
    score = {item.candidate: fmean(item.scores or [0.0]) for item in valid}
    best = max(valid, key=lambda item: (score[item.candidate], -item.candidate))
    for item in valid:
        if item is not best:
            reason = (
                f"candidate {best.candidate} scored {score[best.candidate]:.2f}, this one {score[item.candidate]:.2f}"
            )
            item.violations = [Violation(gate=JUDGE, reason=reason)]
