"""Cost of a request: the price file, the providers' formulas for an image, and upper bounds."""

import math
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cot_builder.endpoint.prices import (
    Patches,
    Price,
    Tiles,
    Usage,
    compute_cost,
    count_image_tokens,
    estimate_input_tokens,
    max_usage,
    read_price,
)
from cot_builder.endpoint.request import ImageFile, Message, Request
from schemas.errors import IndusCotError
from tests.helpers.paths import ROOT

PRICES = ROOT / "prices.yaml"
TILES = Tiles(formula="tiles", base=85, tile=170)
GOOD = "{input: 2.5, output: 10, image: {formula: tiles, base: 85, tile: 170}}"

sides = st.integers(1, 6000)
tokens = st.integers(0, 10_000_000)
dollars = st.floats(0, 1000)
rules = st.one_of(
    st.builds(Tiles, formula=st.just("tiles"), base=st.integers(0, 3000), tile=st.integers(0, 6000)),
    st.builds(
        Patches,
        formula=st.just("patches"),
        side=st.integers(14, 64),
        least=st.integers(1, 64),
        most=st.integers(64, 16384),
        factor=st.floats(0.5, 3),
    ),
)
usages = st.builds(
    lambda input, share, output: Usage(input=input, cached_input=int(input * share), output=output),
    tokens,
    st.floats(0, 1),
    tokens,
)


def priced(image: Tiles | Patches = TILES, input: float = 1.0, output: float = 1.0) -> Price:
    return Price(input=input, output=output, image=image)


def picture(width: int, height: int, digest: str = "a" * 64) -> ImageFile:
    return ImageFile(digest, width, height, lambda: (b"", "image/png"))


def asking(text: str, images: list[ImageFile], max_tokens: int = 100) -> Request:
    content: list[Message] = [{"type": "text", "text": text}, *(image.content_part for image in images)]
    return Request(
        "describe",
        "gpt-4o",
        [{"role": "user", "content": content}],
        {image.sha256: image for image in images},
        max_tokens=max_tokens,
    )


# The file


def test_price_file_entries() -> None:
    gpt = read_price("gpt-4o", path=PRICES)
    assert (gpt.input, gpt.cached_input, gpt.output, gpt.batch) == (2.5, 1.25, 10.0, 0.5)
    assert gpt.image == TILES
    served = read_price("Qwen/Qwen3-VL-8B-Instruct", path=PRICES)
    assert compute_cost(served, Usage(input=10**9, output=10**9)) == 0


def test_unknown_model_message_names_price_file() -> None:
    with pytest.raises(IndusCotError) as caught:
        read_price("gpt-99", path=PRICES)
    for word in (str(PRICES), "'gpt-99'", "models:", "--allow-unpriced"):
        assert word in str(caught.value)


def test_allowed_unknown_model_costs_zero() -> None:
    price = read_price("gpt-99", allow_unpriced=True, path=PRICES)
    bound = max_usage(price, asking("what is here?", [picture(640, 480)]))
    assert compute_cost(price, bound) == 0
    assert bound.input >= 300


def test_allow_unpriced_keeps_known_price() -> None:
    assert read_price("gpt-4o", allow_unpriced=True, path=PRICES) == read_price("gpt-4o", path=PRICES)


BROKEN = {
    "no number": ("models:\n  m: {input: dear, output: 1, image: {formula: tiles, base: 1, tile: 1}}\n", "input"),
    "negative": ("models:\n  m: {input: 1, output: -1, image: {formula: tiles, base: 1, tile: 1}}\n", "output"),
    "no number at all": (
        "models:\n  m: {input: .nan, output: 1, image: {formula: tiles, base: 1, tile: 1}}\n",
        "input",
    ),
    "field missing": ("models:\n  m: {input: 1, image: {formula: tiles, base: 1, tile: 1}}\n", "output"),
    "field unknown": (f"models:\n  m: {GOOD[:-1]}, discount: 1}}\n", "discount"),
    "formula unknown": ("models:\n  m: {input: 1, output: 1, image: {formula: pixels}}\n", "image"),
    "formula incomplete": ("models:\n  m: {input: 1, output: 1, image: {formula: tiles, base: 85}}\n", "tile"),
    "side zero": ("models:\n  m: {input: 1, output: 1, image: {formula: patches, side: 0, most: 9}}\n", "side"),
    "batch above one": (f"models:\n  m: {GOOD[:-1]}, batch: 2}}\n", "batch"),
    "no models": ("prices: {}\n", "models:"),
    "empty": ("", "models:"),
    "models is a list": ("models: [gpt-4o]\n", "models:"),
    "no YAML": ("models: {gpt-4o: [\n", "models:"),
}


@pytest.mark.parametrize(("text", "field"), BROKEN.values(), ids=BROKEN.keys())
def test_invalid_price_file_names_path_and_field(tmp_path: Path, text: str, field: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(IndusCotError) as caught:
        read_price("m", path=path)
    assert str(path) in str(caught.value)
    assert field in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_price_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(IndusCotError, match=r"prices\.yaml: not found"):
        read_price("m", path=tmp_path / "prices.yaml")


@pytest.mark.parametrize("entry", ["{input: dear, output: 1, image: {formula: tiles, base: 1, tile: 1}}", "null"])
def test_invalid_entry_is_named_by_model(tmp_path: Path, entry: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(f"models:\n  gpt-4o: {GOOD}\n  of-my-own: {entry}\n", encoding="utf-8")
    with pytest.raises(IndusCotError, match="of-my-own"):
        read_price("gpt-4o", path=path)


def test_price_file_in_other_encoding(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_bytes(f"# in £\nmodels:\n  m: {GOOD}\n".encode("latin-1"))
    with pytest.raises(IndusCotError, match=r"prices\.yaml"):
        read_price("m", path=path)


# Images


@pytest.mark.parametrize(
    ("width", "height", "count"),
    [
        # Examples of OpenAI's vision guide.
        (1024, 1024, 765),
        (2048, 4096, 1105),
        (4096, 2048, 1105),
        # Calculated by hand: images are never scaled up; one tile, then one pixel more.
        (512, 512, 85 + 170),
        (513, 512, 85 + 2 * 170),
        (1, 1, 85 + 170),
        # 4096 x 512 fits 2048 x 256: four tiles in a row.
        (4096, 512, 85 + 4 * 170),
        # 1334 x 1000 is scaled to 1024.5 x 768: half a pixel more than two tiles.
        (1334, 1000, 85 + 6 * 170),
        # 1500 x 3000 fits 1024 x 2048, then 768 x 1536: two by three, to the pixel.
        (1500, 3000, 85 + 6 * 170),
    ],
)
def test_published_tile_counts(width: int, height: int, count: int) -> None:
    assert count_image_tokens(priced(), picture(width, height)) == count


@pytest.mark.parametrize(
    ("rule", "width", "height", "count"),
    [
        # OpenAI's guide: 1024 x 1024 is 1024 patches of 32 px; gpt-4.1-mini takes 1.62 tokens for each.
        (Patches(formula="patches", side=32, most=1536), 1024, 1024, 1024),
        (Patches(formula="patches", side=32, most=1536, factor=1.62), 1024, 1024, 1659),
        # A partial patch counts as a whole one.
        (Patches(formula="patches", side=32, most=1536), 33, 32, 2),
        (Patches(formula="patches", side=28, most=16384), 280, 140, 50),
        (Patches(formula="patches", side=28, most=16384, least=4), 28, 28, 4),
        (Patches(formula="patches", side=32, most=1536), 8000, 8000, 1536),
    ],
)
def test_patch_counts_by_hand(rule: Patches, width: int, height: int, count: int) -> None:
    assert count_image_tokens(priced(rule), picture(width, height)) == count


def test_patch_count_within_tenth_of_published() -> None:
    # OpenAI's guide: 1800 x 2400 is scaled to 1056 x 1408, which is 1452 patches.
    price = priced(Patches(formula="patches", side=32, most=1536))
    assert 1452 <= count_image_tokens(price, picture(1800, 2400)) <= 1.1 * 1452


@settings(deadline=None)
@given(sides, sides)
def test_tiles_match_exact_arithmetic(width: int, height: int) -> None:
    fitted = min(Fraction(1), Fraction(2048, max(width, height)))
    scale = fitted * min(Fraction(1), 768 / (min(width, height) * fitted))
    count = 85 + 170 * math.ceil(width * scale / 512) * math.ceil(height * scale / 512)
    assert count_image_tokens(priced(), picture(width, height)) == count


@settings(deadline=None)
@given(rules, sides, sides)
def test_image_tokens_ignore_rotation(rule: Tiles | Patches, width: int, height: int) -> None:
    assert count_image_tokens(priced(rule), picture(width, height)) == count_image_tokens(
        priced(rule), picture(height, width)
    )


@settings(deadline=None)
@given(rules, sides, sides, st.integers(0, 300), st.integers(0, 300))
def test_patches_grow_with_image_size(rule: Tiles | Patches, width: int, height: int, right: int, below: int) -> None:
    # Tiles are not monotone: a longer image is scaled down to 2048 px.
    assume(isinstance(rule, Patches))
    small, large = picture(width, height), picture(width + right, height + below)
    assert count_image_tokens(priced(rule), small) <= count_image_tokens(priced(rule), large)


# Requests


@settings(deadline=None)
@given(st.text(max_size=200), st.lists(st.tuples(sides, sides), max_size=4), rules, st.integers(1, 10_000))
def test_bound_is_at_least_the_estimate(
    text: str, sizes: list[tuple[int, int]], rule: Tiles | Patches, max_tokens: int
) -> None:
    images = [picture(*size, digest=f"{number:064}") for number, size in enumerate(sizes)]
    request, price = asking(text, images, max_tokens), priced(rule)
    bound = max_usage(price, request)
    seen = sum(count_image_tokens(price, image) for image in images)
    assert bound.input >= estimate_input_tokens(price, request) >= seen
    # At least a token per two bytes of the text; the JSON around it adds more.
    assert bound.input >= seen + len(text.encode()) / 2
    assert bound.output == max_tokens
    assert bound.cached_input == 0


def test_repeated_image_counts_each_time() -> None:
    once, other = picture(1024, 1024), picture(512, 512, "b" * 64)
    alone = estimate_input_tokens(priced(), asking("x", [once]))
    assert estimate_input_tokens(priced(), asking("x", [once, once])) - alone == pytest.approx(765, abs=60)
    assert estimate_input_tokens(priced(), asking("x", [once, other])) - alone == pytest.approx(255, abs=60)


def test_response_schema_counts_as_text() -> None:
    plain = asking("x", [])
    schema = {"type": "json_schema", "json_schema": {"schema": {"description": "y" * 3600}}}
    long = Request(plain.step, plain.model, plain.messages, response_format=schema)
    assert estimate_input_tokens(priced(), long) - estimate_input_tokens(priced(), plain) >= 1000


# Money


def test_cost_by_hand() -> None:
    price = Price(input=2.5, cached_input=1.25, output=10, image=TILES)
    usage = Usage(input=1_000_000, cached_input=400_000, output=100_000)
    assert compute_cost(price, usage) == pytest.approx(0.6 * 2.5 + 0.4 * 1.25 + 0.1 * 10)
    assert compute_cost(price, usage, batch=True) == pytest.approx(compute_cost(price, usage) / 2)
    quarter = price.model_copy(update={"batch": 0.25})
    assert compute_cost(quarter, usage, batch=True) == pytest.approx(compute_cost(price, usage) / 4)


def test_cached_input_defaults_to_input_price() -> None:
    usage = Usage(input=1_000_000, cached_input=400_000, output=0)
    assert compute_cost(priced(input=2.5), usage) == pytest.approx(2.5)
    free = Price(input=2.5, cached_input=0, output=1, image=TILES)
    assert compute_cost(free, usage) == pytest.approx(0.6 * 2.5)


@settings(deadline=None)
@given(dollars, st.floats(0, 1), dollars, usages, tokens, tokens)
def test_cost_grows_with_tokens(
    input_usd: float, cached_share: float, output_usd: float, usage: Usage, more_input: int, more_output: int
) -> None:
    price = Price(input=input_usd, cached_input=input_usd * cached_share, output=output_usd, image=TILES)
    less = compute_cost(price, usage)
    assert less >= 0
    assert compute_cost(price, usage.model_copy(update={"input": usage.input + more_input})) >= less
    assert compute_cost(price, usage.model_copy(update={"output": usage.output + more_output})) >= less
    assert compute_cost(price, usage.model_copy(update={"cached_input": 0})) >= less * (1 - 1e-9)
    assert compute_cost(price, usage, batch=True) <= less


@settings(deadline=None)
@given(dollars, dollars, usages, dollars)
def test_cost_grows_with_prices(input_usd: float, output_usd: float, usage: Usage, more: float) -> None:
    less = compute_cost(priced(input=input_usd, output=output_usd), usage)
    assert compute_cost(priced(input=input_usd + more, output=output_usd), usage) >= less
    assert compute_cost(priced(input=input_usd, output=output_usd + more), usage) >= less
