"""Shared by the stages that ask a model: run a client with the parameters, and estimate the cost before a run."""

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
from cot_builder.endpoint.store import AnswerStore, answer_store_path
from cot_builder.params import Params
from cot_builder.progress import console
from cot_builder.storage.samples import DamagedImageError
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError

Item = TypeVar("Item")
Result = TypeVar("Result")
BATCH_CONCURRENCY = 400
"""Samples in work at once in batch mode: a batch should be large, but each sample keeps its images in memory."""
ASSUMED_OUTPUT_TOKENS = {
    "describe": 350,
    "compose": 450,
    "correct": 450,
    "audit": 350,
    "judge": 120,
    "blind": 80,
    "prior": 250,
}
"""Output tokens per answer, assumed until the store has enough answers of the step."""


def make_teacher_endpoint(params: Params) -> Endpoint:
    """Return the teacher's endpoint."""
    teacher = params.teacher
    return Endpoint(teacher.base_url, teacher.api_key_env, teacher.models, "teacher")


def _load_prices(endpoint: Endpoint, workspace: Workspace, allow_unpriced: bool) -> Callable[[str], Price]:
    """Return a function from model to price; checks the endpoint's models at once, and warns of one without a price.

    Raises:
        IndusCotError: no model is set, or a model has no price and ``allow_unpriced`` is not set.
    """
    if not all(endpoint.models):
        raise IndusCotError(
            f"{endpoint.section}.model is empty; set it to a model that the endpoint serves, for example "
            f"--set {endpoint.section}.model=gpt-4.1, and add its price to prices.yaml"
        )

    @cache
    def price(model: str) -> Price:
        return prices.read_price(model, allow_unpriced, workspace.root / prices.PRICES_FILE)

    for model in endpoint.models:
        if price(model) is prices.UNPRICED:
            console.print(
                f"no price for {model}: spend is counted as 0, and budget.usd has no effect",
                style="yellow",
                highlight=False,
            )
    return price


def run_with_client(
    endpoint: Endpoint,
    params: Params,
    workspace: Workspace,
    items: Iterable[Item],
    work: Callable[[EndpointClient, Item], Awaitable[Result]],
    on_result: Callable[[Result], None],
    *,
    description: str,
    unit: str,
    total: int,
    refresh: bool,
    allow_unpriced: bool,
    status: Callable[[], str] = str,
) -> None:
    """Process every item with a client of ``endpoint``, within the limits and the budget of ``params``.

    Raises:
        IndusCotError: no model, price or key; the budget limit is reached; the endpoint refuses every request.
    """
    price = _load_prices(endpoint, workspace, allow_unpriced)
    path = answer_store_path(workspace.root)
    # The cap holds only if one run at a time spends.
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise IndusCotError(
            f"{path}: another run of this project is using the endpoint; wait for it or stop it"
        ) from None
    answers = AnswerStore(path)

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
            limits = params.compute.endpoint
            concurrency = BATCH_CONCURRENCY if limits.batch else limits.concurrency
            await run_in_order(
                items, lambda item: work(client, item), on_result, client, concurrency, description, total, unit, status
            )

    # Exclude imported modules from garbage collection: scanning them delays every request by a fifth of a second.
    gc.freeze()
    try:
        asyncio.run(run())
    except KeyboardInterrupt:
        console.print("stopped; all answers are stored: run the same command to continue", highlight=False)
        raise
    finally:
        gc.unfreeze()
        answers.close()
        lock.release()


@dataclass
class Estimate:
    """Estimated requests, tokens and cost of a run; nothing is sent to make it."""

    samples: int = 0
    cached: Counter[str] = field(default_factory=Counter)
    """Answers in the store, by step."""
    requests: Counter[str] = field(default_factory=Counter)
    """Requests to be sent, by step."""
    input: Counter[str] = field(default_factory=Counter)
    """Input tokens of the requests to be sent, by step."""
    output: Counter[str] = field(default_factory=Counter)
    """Output tokens of the requests to be sent, by step."""
    usd: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    measured: set[str] = field(default_factory=set)
    """Steps whose output tokens are the mean over answers in the store, not an assumption."""
    unpriced: set[str] = field(default_factory=set)
    """Steps that ask a model whose price is unknown."""
    spent_usd: float = 0.0
    failed: int = 0
    """Samples that the last run left without a trajectory."""


def estimate(
    params: Params,
    workspace: Workspace,
    items: Iterable[Item],
    work: Callable[[EndpointClient, Item], Awaitable[object]],
    next_steps: Callable[[str], list[str]],
    *,
    reader_steps: Collection[str] = (),
    ignore_cache: bool,
    allow_unpriced: bool,
) -> Estimate:
    """Replay a teacher's run with the stored answers alone, and estimate the steps that follow a missing answer.

    Args:
        params: The parameters; ``teacher`` and ``compute.endpoint`` are used.
        workspace: The project.
        items: The items of the run.
        work: Processes one item with the client.
        next_steps: Returns the steps that normally follow a step, the step itself first.
        reader_steps: Steps that ask ``teacher.reader``, the model that audits and judges.
        ignore_cache: Treat every answer as missing.
        allow_unpriced: Count an unknown price as 0.

    Raises:
        IndusCotError: no model or price.
    """
    endpoint = make_teacher_endpoint(params)
    price = _load_prices(endpoint, workspace, allow_unpriced)
    # No API key is needed: nothing is sent.
    answers = AnswerStore(answer_store_path(workspace.root))
    result = Estimate(spent_usd=answers.spent()[0])
    means = {step: mean for model in endpoint.models for step, mean in answers.mean_output(model).items()}
    batch = params.compute.endpoint.batch

    def add(step: str, request: Request) -> None:
        # Later steps of a chain may use a different model than the first.
        step_price = price(params.teacher.reader if step in reader_steps else request.model)
        tokens = Usage(
            input=prices.estimate_input_tokens(step_price, request),
            output=round(means.get(step, ASSUMED_OUTPUT_TOKENS.get(step, 300))),
        )
        if step_price is prices.UNPRICED:
            result.unpriced.add(step)
        if step in means:
            result.measured.add(step)
        result.requests[step] += 1
        result.input[step] += tokens.input
        result.output[step] += tokens.output
        result.usd[step] += prices.compute_cost(step_price, tokens, batch)

    class EstimatingClient(EndpointClient):
        async def ask(self, request: Request, offline: bool = False, refresh: bool = False) -> Answer:  # noqa: ARG002
            try:
                if ignore_cache:
                    raise CacheMissError(request)
                answer = await super().ask(request, offline=True)
            except CacheMissError:
                for step in next_steps(request.step):
                    add(step, request)
                raise
            result.cached[request.step] += 1
            return answer

    async def run() -> None:
        async with EstimatingClient(
            endpoint, params.compute.endpoint, params.budget, answers, price=price, offline=True
        ) as client:
            for item in items:
                result.samples += 1
                try:
                    await work(client, item)
                except CacheMissError:
                    continue
                except DamagedImageError:
                    result.samples -= 1

    try:
        asyncio.run(run())
    finally:
        answers.close()
    return result
