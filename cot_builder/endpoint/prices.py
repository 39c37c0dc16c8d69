"""Cost of a request: prices per model, and the providers' formulas for the tokens of an image."""

import math
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cot_builder.endpoint.request import IMAGE_SCHEME, ImageFile, Request
from schemas.errors import IndusCotError

PRICES_FILE = Path("prices.yaml")
MILLION = 1_000_000
BYTES_PER_TOKEN = 3.6
"""Mean over English prose and JSON with common tokenizers; for estimates only."""
MIN_BYTES_PER_TOKEN = 1.0
"""Lower bound for a byte-level tokenizer in any language; used for the hard cap."""
Usd = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _PriceModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tiles(_PriceModel):
    """Tokens by tiles of 512 px, after scaling into 2048 px and to a short side of 768 px (GPT-4o, GPT-4.1)."""

    formula: Literal["tiles"]
    base: Annotated[int, Field(ge=0)]
    tile: Annotated[int, Field(ge=0)]


class Patches(_PriceModel):
    """Tokens by patches of ``side`` px within a range of patch counts (Qwen-VL 28 or 32 px, GPT-4.1-mini 32 px)."""

    formula: Literal["patches"]
    side: Annotated[int, Field(ge=1)]
    most: Annotated[int, Field(ge=1)]
    least: Annotated[int, Field(ge=1)] = 1
    factor: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0


class Price(_PriceModel):
    """Prices of one model, in USD per million tokens."""

    input: Usd
    cached_input: Usd | None = None
    """Price of input tokens that the provider had cached; the price of input if unset."""
    output: Usd
    batch: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Price of the Batch API as a share of the full price."""
    image: Annotated[Tiles | Patches, Field(discriminator="formula")]


class Usage(BaseModel):
    """Token counts of one answer, as reported by the server."""

    model_config = ConfigDict(frozen=True)

    input: int = 0
    cached_input: int = 0
    """The part of ``input`` that the provider read from its own cache."""
    output: int = 0

    @property
    def total(self) -> int:
        return self.input + self.output


UNPRICED = Price(input=0, output=0, image=Patches(formula="patches", side=32, most=16384))
"""Zero price of a model without an entry in prices.yaml, used with `--allow-unpriced`."""


def read_price(model: str, allow_unpriced: bool = False, path: Path = PRICES_FILE) -> Price:
    """Read the price of ``model``.

    Raises:
        IndusCotError: the file is missing or invalid, or it has no such model and ``allow_unpriced`` is not set.
    """
    prices: dict[str, Price] = {}
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))["models"]
        for name, entry in values.items():
            prices[name] = Price.model_validate(entry)
    except FileNotFoundError:
        raise IndusCotError(f"{path}: not found; create it with the price of each model under `models:`") from None
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, (name, *item['loc'])))}: {item['msg']}" for item in error.errors()]
        raise IndusCotError(f"{path}: {'; '.join(problems)}") from None
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise IndusCotError(
            f"{path}: invalid ({type(error).__name__}); it must be UTF-8 YAML with a price per model under `models:`"
        ) from error
    if model in prices:
        return prices[model]
    if allow_unpriced:
        return UNPRICED
    raise IndusCotError(
        f"{path}: no price for the model {model!r}; add it under `models:` (input, output, image), "
        "or run with --allow-unpriced: spend is then neither estimated nor capped"
    )


def compute_cost(price: Price, usage: Usage, batch: bool = False) -> float:
    """Compute the cost of ``usage`` in USD."""
    cached = price.input if price.cached_input is None else price.cached_input
    plain = usage.input - usage.cached_input
    paid = (plain * price.input + usage.cached_input * cached + usage.output * price.output) / MILLION
    return paid * price.batch if batch else paid


def count_image_tokens(price: Price, image: ImageFile) -> int:
    """Count the input tokens of one image by the model's formula."""
    width, height, rule = image.width, image.height, price.image
    if isinstance(rule, Tiles):
        fitted = min(1, 2048 / max(width, height))
        shrink = min(1, 768 / (min(width, height) * fitted))
        tiles = math.ceil(width * fitted * shrink / 512) * math.ceil(height * fitted * shrink / 512)
        return rule.base + rule.tile * tiles
    patches = math.ceil(width / rule.side) * math.ceil(height / rule.side)
    return math.ceil(min(max(patches, rule.least), rule.most) * rule.factor)


def estimate_input_tokens(price: Price, request: Request) -> int:
    """Estimate the input tokens of a request."""
    return _count_input_tokens(price, request, BYTES_PER_TOKEN)


def max_usage(price: Price, request: Request) -> Usage:
    """Return the token usage that a request cannot exceed."""
    return Usage(input=_count_input_tokens(price, request, MIN_BYTES_PER_TOKEN), output=request.max_tokens)


def _count_input_tokens(price: Price, request: Request, bytes_per_token: float) -> int:
    text = math.ceil(request.text_bytes / bytes_per_token)
    return text + sum(count_image_tokens(price, request.images[digest]) for digest in _list_image_hashes(request))


def _list_image_hashes(request: Request) -> list[str]:
    return [
        part["image_url"]["url"][len(IMAGE_SCHEME) :]
        for message in request.messages
        if not isinstance(message["content"], str)
        for part in message["content"]
        if part["type"] == "image_url"
    ]
