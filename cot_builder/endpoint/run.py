"""What the stages that ask a model share: the client opened by the parameters, and the estimate before a run."""

import asyncio
import gc
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import TypeVar

from filelock import FileLock, Timeout

from cot_builder.endpoint import prices
from cot_builder.endpoint.client import Endpoint, EndpointClient
from cot_builder.endpoint.flow import run_in_order
from cot_builder.endpoint.prices import Price, Usage
from cot_builder.endpoint.replies import Answer, CacheMissError
from cot_builder.endpoint.request import Request
from cot_builder.endpoint.store import Answers, store
from cot_builder.params import Params
from cot_builder.progress import console
from cot_builder.storage.samples import DamagedImageError
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError

Item = TypeVar("Item")
Result = TypeVar("Result")
BATCH_SAMPLES = 400
"""Samples at work together in batch mode: a batch should be large, and each holds its images in memory."""
ASSUMED_OUTPUT = {
    "describe": 350,
    "compose": 450,
    "correct": 450,
    "audit": 350,
    "judge": 120,
    "blind": 80,
    "prior": 250,
}
"""Tokens an answer takes, until a step has answers enough in the store to tell."""


def teacher_endpoint(params: Params) -> Endpoint:
    """Where the teacher is asked."""
    teacher = params.teacher
    return Endpoint(teacher.base_url, teacher.api_key_env, teacher.models, "teacher")


def _prices(endpoint: Endpoint, workspace: Workspace, allow_unpriced: bool) -> Callable[[str], Price]:
    """Prices by model, those of the endpoint's looked up at once; warns of a model without.

    Raises:
        IndusCotError: no model is named; one has no price, and that is not allowed.
    """
    if not all(endpoint.models):
        raise IndusCotError(
            f"{endpoint.section}.model is empty; name the model the endpoint serves, for example "
            f"--set {endpoint.section}.model=gpt-4.1, and give its price in prices.yaml"
        )

    @cache
    def price(model: str) -> Price:
        return prices.read_price(model, allow_unpriced, workspace.root / prices.PRICES_FILE)

    for model in endpoint.models:
        if price(model) is prices.FREE:
            console.print(
                f"no price for {model}: spend is counted as 0, budget.usd cannot hold", style="yellow", highlight=False
            )
    return price


def run_with_client(
    endpoint: Endpoint,
    params: Params,
    workspace: Workspace,
    items: Iterable[Item],
    work: Callable[[EndpointClient, Item], Awaitable[Result]],
    take: Callable[[Result], None],
    *,
    description: str,
    unit: str,
    total: int,
    refresh: bool,
    allow_unpriced: bool,
    tell: Callable[[], str] = str,
) -> None:
    """Ask ``endpoint`` about every item, at the pace and within the budget of ``params``.

    Raises:
        IndusCotError: no model, price or key; the budget is spent; the endpoint refuses everybody.
    """
    price = _prices(endpoint, workspace, allow_unpriced)
    path = store(workspace.root)
    # A cap is only hard where one run at a time spends against it.
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise IndusCotError(
            f"{path}: another run of this project is asking the endpoint; wait for that run or stop it"
        ) from None
    answers = Answers(path)

    async def run() -> None:
        client = EndpointClient(
            endpoint,
            params.compute.endpoint,
            params.budget,
            answers,
            price=price,
            refresh=refresh,
        )
        async with client:
            pace = params.compute.endpoint
            at_once = BATCH_SAMPLES if pace.batch else pace.concurrency
            await run_in_order(
                items, lambda item: work(client, item), take, client, at_once, description, total, unit, tell
            )

    # What was imported stays: to look through it for garbage holds every request up for a fifth of a second.
    gc.freeze()
    try:
        asyncio.run(run())
    except KeyboardInterrupt:
        console.print("stopped; every answer is kept: the same command goes on from here", highlight=False)
        raise
    finally:
        gc.unfreeze()
        answers.close()
        lock.release()


@dataclass
class Estimate:
    """What a run would ask, take and cost, without having asked anything."""

    samples: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    """Answers that are in the store, by step."""
    requests: Counter[str] = field(default_factory=Counter)
    """Requests that would be sent, by step."""
    input: Counter[str] = field(default_factory=Counter)
    """Input tokens of these, by step."""
    output: Counter[str] = field(default_factory=Counter)
    """Output tokens of these, by step."""
    usd: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    measured: set[str] = field(default_factory=set)
    """Steps whose output is the mean of answers in the store rather than assumed."""
    unpriced: set[str] = field(default_factory=set)
    """Steps that would ask a model whose price is unknown."""
    spent_usd: float = 0.0
    failed: int = 0
    """Samples to draft that the last run left without a trajectory."""


def estimate(
    params: Params,
    workspace: Workspace,
    items: Iterable[Item],
    work: Callable[[EndpointClient, Item], Awaitable[object]],
    after: Callable[[str], list[str]],
    *,
    reading: Collection[str] = (),
    anew: bool,
    allow_unpriced: bool,
) -> Estimate:
    """Walk a run of the teacher with the kept answers alone, and reckon what would follow where one is missing.

    Args:
        params: The parameters; ``teacher`` and ``compute.endpoint`` matter.
        workspace: The project.
        items: What the run would go through.
        work: Asks the client about one item.
        after: The steps that normally follow a step, the step itself first.
        reading: Steps that ask ``teacher.reader``, the model that audits and judges.
        anew: Take no answer as kept.
        allow_unpriced: Take an unknown price for nothing.

    Raises:
        IndusCotError: no model or price.
    """
    endpoint = teacher_endpoint(params)
    price = _prices(endpoint, workspace, allow_unpriced)
    # Nothing is sent, so that no key is needed.
    answers = Answers(store(workspace.root))
    found = Estimate(spent_usd=answers.spent()[0])
    means = {step: mean for model in endpoint.models for step, mean in answers.mean_output(model).items()}
    batch = params.compute.endpoint.batch

    def add(step: str, request: Request) -> None:
        # Of a chain reckoned from its first request, the later steps may ask another model.
        own = price(params.teacher.reader if step in reading else request.model)
        tokens = Usage(
            input=prices.expected_input(own, request), output=round(means.get(step, ASSUMED_OUTPUT.get(step, 300)))
        )
        if own is prices.FREE:
            found.unpriced.add(step)
        if step in means:
            found.measured.add(step)
        found.requests[step] += 1
        found.input[step] += tokens.input
        found.output[step] += tokens.output
        found.usd[step] += prices.cost(own, tokens, batch)

    class Reckoning(EndpointClient):
        async def ask(self, request: Request, offline: bool = False, refresh: bool = False) -> Answer:  # noqa: ARG002
            try:
                if anew:
                    raise CacheMissError(request)
                answer = await super().ask(request, offline=True)
            except CacheMissError:
                for step in after(request.step):
                    add(step, request)
                raise
            found.kept[request.step] += 1
            return answer

    async def run() -> None:
        async with Reckoning(
            endpoint, params.compute.endpoint, params.budget, answers, price=price, offline=True
        ) as client:
            for item in items:
                found.samples += 1
                try:
                    await work(client, item)
                except CacheMissError:
                    continue
                except DamagedImageError:
                    found.samples -= 1

    try:
        asyncio.run(run())
    finally:
        answers.close()
    return found
