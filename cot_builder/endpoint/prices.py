"""What a request costs: prices a model, and the providers' formulas for the tokens of an image."""

import math
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cot_builder.endpoint.request import IMAGE_SCHEME, ImageFile, Request
from schemas.errors import IndusCotError

PRICES_FILE = Path("prices.yaml")
MILLION = 1_000_000
BYTES_A_TOKEN = 3.6
"""Of English prose and JSON together, in common tokenizers; for estimates only."""
LEAST_BYTES_A_TOKEN = 1.0
"""A token of a byte-level tokenizer is never shorter, in any language: what a hard cap reckons with."""
Usd = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tiles(_Model):
    """Tokens by tiles of 512 px, after scaling into 2048 px and to a short side of 768 px (GPT-4o, GPT-4.1)."""

    formula: Literal["tiles"]
    base: Annotated[int, Field(ge=0)]
    tile: Annotated[int, Field(ge=0)]


class Patches(_Model):
    """Tokens by patches of ``side`` px within a range of patch counts (Qwen-VL 28 or 32 px, GPT-4.1-mini 32 px)."""

    formula: Literal["patches"]
    side: Annotated[int, Field(ge=1)]
    most: Annotated[int, Field(ge=1)]
    least: Annotated[int, Field(ge=1)] = 1
    factor: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0


class Price(_Model):
    """Prices of one model, USD for a million tokens."""

    input: Usd
    cached_input: Usd | None = None
    """Of input tokens the provider had cached; the price of input where unset."""
    output: Usd
    batch: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the price that the Batch API asks."""
    image: Annotated[Tiles | Patches, Field(discriminator="formula")]


class Usage(BaseModel):
    """Tokens of one answer, as the server counted them."""

    model_config = ConfigDict(frozen=True)

    input: int = 0
    cached_input: int = 0
    """Of ``input``, those read from the provider's own cache."""
    output: int = 0

    @property
    def total(self) -> int:
        return self.input + self.output


FREE = Price(input=0, output=0, image=Patches(formula="patches", side=32, most=16384))
"""Stands for a model whose price is unknown, where `--allow-unpriced` lets it run."""


def read_price(model: str, allow_unpriced: bool = False, path: Path = PRICES_FILE) -> Price:
    """The price of ``model``.

    Raises:
        IndusCotError: the file is absent or does not fit; the model is not in it and ``allow_unpriced`` is not set.
    """
    prices: dict[str, Price] = {}
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))["models"]
        for name, entry in values.items():
            prices[name] = Price.model_validate(entry)
    except FileNotFoundError:
        raise IndusCotError(f"{path}: not found; it holds what each model costs") from None
    except ValidationError as error:
        told = [f"{'.'.join(map(str, (name, *item['loc'])))}: {item['msg']}" for item in error.errors()]
        raise IndusCotError(f"{path}: {'; '.join(told)}") from None
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise IndusCotError(
            f"{path}: must hold `models:` with a price each, in UTF-8 ({type(error).__name__})"
        ) from error
    if model in prices:
        return prices[model]
    if allow_unpriced:
        return FREE
    raise IndusCotError(
        f"{path}: no price for the model {model!r}; add it under `models:` (input, output, image), "
        "or run with --allow-unpriced, which can then neither estimate nor cap what is spent"
    )


def cost(price: Price, usage: Usage, batch: bool = False) -> float:
    """USD for ``usage``."""
    cached = price.input if price.cached_input is None else price.cached_input
    plain = usage.input - usage.cached_input
    paid = (plain * price.input + usage.cached_input * cached + usage.output * price.output) / MILLION
    return paid * price.batch if batch else paid


def image_tokens(price: Price, image: ImageFile) -> int:
    """Input tokens of one image by the model's formula."""
    width, height, rule = image.width, image.height, price.image
    if isinstance(rule, Tiles):
        fitted = min(1, 2048 / max(width, height))
        short = min(1, 768 / (min(width, height) * fitted))
        tiles = math.ceil(width * fitted * short / 512) * math.ceil(height * fitted * short / 512)
        return rule.base + rule.tile * tiles
    patches = math.ceil(width / rule.side) * math.ceil(height / rule.side)
    return math.ceil(min(max(patches, rule.least), rule.most) * rule.factor)


def expected_input(price: Price, request: Request) -> int:
    """Input tokens a request should take."""
    return _input(price, request, BYTES_A_TOKEN)


def most(price: Price, request: Request) -> Usage:
    """Tokens a request cannot exceed."""
    return Usage(input=_input(price, request, LEAST_BYTES_A_TOKEN), output=request.max_tokens)


def _input(price: Price, request: Request, bytes_a_token: float) -> int:
    text = math.ceil(request.text_bytes / bytes_a_token)
    return text + sum(image_tokens(price, request.images[digest]) for digest in _shown(request))


def _shown(request: Request) -> list[str]:
    return [
        part["image_url"]["url"][len(IMAGE_SCHEME) :]
        for message in request.messages
        if not isinstance(message["content"], str)
        for part in message["content"]
        if part["type"] == "image_url"
    ]
