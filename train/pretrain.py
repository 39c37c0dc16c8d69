"""Pre-trains the tiny model to see and to point, as real backbones can, on categories that appear nowhere else.

First the vision tower learns dense maps, on whole images and on crops: which cells a defect touches (a cell becomes one
visual token), and the defect's type and box in each of them (the idea of FCOS, arXiv 1904.01355). If a model of this
size is trained end to end on verdicts only, it is still at chance after minutes: one bit per image is too little to
learn to see. Then the language model learns to describe what the tower sees.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from cot_builder.inspection.proposals import propose
from cot_builder.inspection.rendering import prompt
from cot_builder.inspection.toolbox import tool_schemas
from cot_builder.inspection.tools.crop import crop
from cot_builder.storage.images import encode_png
from schemas.geometry import Box, to_pixels
from train import surfaces
from train.collator import make_collator

CELL = 16
"""Side of a cell in pixels; a cell becomes one visual token."""
TOUCHED_SHARE = 0.03
"""A cell counts as touched if a defect covers more than this share of it."""
MIN_COVER = 60
"""A pixel belongs to a defect if its mask value, from 0 to 255, is above this."""
KINDS = {name: number for number, name in enumerate((*surfaces.SMALL, *surfaces.LARGE))}
HEAD_RATE_FACTOR = 10
"""Learning rate of the head, relative to that of the tower."""
CLEAN = "clean"
ENLARGED = "A part of it, enlarged."
AFTER_WHOLE_PROBABILITY = 0.7
"""Probability that a part is shown after the whole image, and not by itself."""
OPENINGS = ("", "Look: ", "I see: ", "Here is what there is: ", "Well, ")


class View(NamedTuple):
    """An image for the model, with its labels."""

    image: np.ndarray
    """uint8 (h, w, 3) RGB, as the processor scales it."""
    mask: np.ndarray
    """uint8 (h, w): 255 where the defect lies."""
    word: str
    """Type of the defect, or ``clean``."""
    whole: np.ndarray | None = None
    """For a part: the whole image, as the processor scales it; None for a whole image."""


def draw_views(processor: Any, categories: Sequence[int], images: int, rng: np.random.Generator) -> Iterator[View]:
    """Draw three views per image: the whole, the crop that the tool `crop` proposes, and a random crop.

    The map of a whole image includes small defects, so the tower is not taught to overlook them.
    """
    for _ in range(images):
        size = rng.choice(("none", "small", "large"), p=(0.3, 0.4, 0.3))
        surface = surfaces.draw_surface(int(rng.choice(categories)), size, rng)
        whole = make_view(processor, surface.pixels, surface.mask, surface.defect_type)
        yield whole
        side = int(rng.integers(103, 260))
        x, y = rng.integers(0, 1000 - side, 2).tolist()
        for box in (propose(surface.pixels, 1)[0].box, (x, y, x + side, y + side)):
            part = make_view(
                processor, crop(surface.pixels, list(box)).image, _cut_mask(surface.mask, box), surface.defect_type
            )
            yield part._replace(whole=whole.image)


def draw_whole_views(
    processor: Any, categories: Sequence[int], images: int, rng: np.random.Generator
) -> Iterator[View]:
    """Draw whole images with large defects, to learn where a defect is: in a crop it is always in the middle."""
    for _ in range(images):
        surface = surfaces.draw_surface(int(rng.choice(categories)), "large", rng)
        yield make_view(processor, surface.pixels, surface.mask, surface.defect_type)


def is_describable(seen: View) -> bool:
    """Whether the view shows what its label says; a small defect is invisible in the whole image."""
    return seen.whole is not None or seen.word not in surfaces.SMALL


def _cut_mask(mask: np.ndarray, box: Box) -> np.ndarray:
    x1, y1, x2, y2 = to_pixels(box, surfaces.SIDE, surfaces.SIDE)
    return mask[y1:y2, x1:x2]


def make_view(processor: Any, pixels: np.ndarray | None, mask: np.ndarray, kind: str | None) -> View:
    """Scale an image and its mask as the processor does; the label is ``kind`` if the mask marks a cell, else clean."""
    image = scale_image(processor, pixels)
    small = cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_AREA)
    return View(image, small, kind if kind and mark_touched_cells(small).any() else CLEAN)


def scale_image(processor: Any, pixels: np.ndarray | None) -> np.ndarray:
    """Scale an image with the model's processor, to uint8 (h, w, 3) RGB.

    Args:
        processor: Processor of the model.
        pixels: uint8 (height, width, 3) BGR.
    """
    assert pixels is not None
    given = processor.image_processor
    side, merged, often = given.patch_size, given.merge_size, given.temporal_patch_size
    rgb = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    inputs = given(images=[rgb], do_rescale=False, do_normalize=False, return_tensors="pt")
    _, height, width = inputs["image_grid_thw"][0].tolist()
    blocks = inputs["pixel_values"].reshape(height // merged, width // merged, merged, merged, 3, often, side, side)
    found: np.ndarray = (
        blocks[:, :, :, :, :, 0].permute(0, 2, 5, 1, 3, 6, 4).reshape(height * side, width * side, 3).numpy()
    )
    return np.ascontiguousarray(found).astype(np.uint8)


def read_cells(tower: Any, head: Any, processor: Any, images: Sequence[np.ndarray]) -> list[Any]:
    """Return the output of ``head`` in each cell: one tensor (h / 16 * w / 16, outputs) per image."""
    inputs = processor.image_processor(images=list(images), return_tensors="pt")
    grid = inputs["image_grid_thw"]
    found = head(tower(inputs["pixel_values"], grid_thw=grid).pooler_output)
    return list(found.split([height * width // 4 for _, height, width in grid.tolist()]))


def mark_touched_cells(mask: np.ndarray) -> np.ndarray:
    """Return 1 for each cell that the defect touches, else 0, as float32 (h / 16, w / 16)."""
    height, width = mask.shape
    cells = mask.reshape(height // CELL, CELL, width // CELL, CELL).mean((1, 3)) / 255
    return (cells > TOUCHED_SHARE).astype(np.float32)


def bounding_box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """Return the box around the mask (x1, y1, x2, y2) as shares of width and height; all 0 if the mask is empty."""
    height, width = mask.shape
    x, y, across, down = cv2.boundingRect((mask > MIN_COVER).astype(np.uint8))
    return x / width, y / height, (x + across) / width, (y + down) / height


def initialise_positions(model: Any, processor: Any) -> None:
    """Initialise the position embeddings, and the embeddings of the grid's numbers, as sines and cosines, in place.

    Vision transformers may start this way (arXiv 2111.06377, section 3). From random embeddings, minutes of training
    would not teach the model where each cell is, nor that 150 lies between 100 and 200.
    """
    import torch

    weights = model.model.visual.pos_embed.weight
    side, size = round(len(weights) ** 0.5), weights.shape[1]
    y, x = np.mgrid[0:side, 0:side] / side
    numbers = np.arange(0, 1001, surfaces.GRID)
    tokens = model.get_input_embeddings().weight
    places = processor.tokenizer.convert_tokens_to_ids([str(number) for number in numbers])
    with torch.no_grad():
        weights.copy_(torch.from_numpy(np.hstack([_waves(x.ravel(), size // 4), _waves(y.ravel(), size // 4)])))
        line = torch.from_numpy(_waves(numbers / 1000, tokens.shape[1] // 2))
        tokens[places] = (line * (tokens.std() / line.std())).to(tokens.dtype)


def _waves(values: np.ndarray, count: int) -> np.ndarray:
    """Return sines and cosines of values in [0, 1] with ``count`` wavelengths from 2 downwards: (values, 2 count)."""
    angles = values[:, None] * 2.0 ** np.linspace(0, 3, count) * np.pi
    return np.hstack([np.sin(angles), np.cos(angles)])


def make_cell_head(model: Any, seed: int) -> Any:
    """Return a linear head with the outputs of a cell: touched or not, box, type."""
    import torch

    torch.manual_seed(seed)
    return torch.nn.Linear(model.config.vision_config.out_hidden_size, 1 + 4 + len(KINDS))


def train_vision(
    model: Any, processor: Any, head: Any, seen: Sequence[View], steps: int, batch: int, rate: float, seed: int
) -> Iterator[float]:
    """Train the vision tower of ``model`` and ``head``, in place; yields the loss of each step."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, l1_loss

    rng = np.random.default_rng(seed)
    tower = model.model.visual
    learned = [*tower.parameters(), *head.parameters()]
    rates = [rate, HEAD_RATE_FACTOR * rate]
    groups = [{"params": [*part.parameters()], "lr": one} for part, one in zip((tower, head), rates, strict=True)]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, total_steps=steps, pct_start=0.15)
    weight = torch.tensor(4.0)
    for _ in range(steps):
        chosen = [_augment(seen[int(number)], rng) for number in rng.integers(0, len(seen), batch)]
        cells = [mark_touched_cells(one.mask).ravel() for one in chosen]
        read = torch.cat(read_cells(tower, head, processor, [one.image for one in chosen]))
        touched = torch.from_numpy(np.concatenate(cells))
        inside = touched > 0
        boxes = np.concatenate(
            [np.tile(bounding_box(one.mask), (len(part), 1)) for one, part in zip(chosen, cells, strict=True)]
        )
        kinds = np.concatenate(
            [np.full(len(part), KINDS.get(one.word, 0)) for one, part in zip(chosen, cells, strict=True)]
        )
        loss = binary_cross_entropy_with_logits(read[:, 0], touched, pos_weight=weight)
        if inside.any():
            loss = loss + 4 * l1_loss(read[inside, 1:5], torch.from_numpy(boxes).float()[inside])
            loss = loss + 0.5 * cross_entropy(read[inside, 5:], torch.from_numpy(kinds)[inside])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        schedule.step()
        yield float(loss.detach())


def measure_visibility(
    model: Any, processor: Any, head: Any, categories: Sequence[int], images: int
) -> dict[str, float]:
    """Measure how well the tower detects defects, in whole images and in crops.

    Returns the AUROC of the strongest cell, of small and of large defects against clean surfaces; 0.5 is chance. The
    tower was trained only to find defects, in whole images and in crops, so chance means that a defect is not visible.
    """
    import torch
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(5)
    strongest: dict[tuple[str, str], list[float]] = {}
    sizes: tuple[surfaces.Size, ...] = ("none", "small", "large")
    for size in sizes:
        drawn = [surfaces.draw_surface(int(rng.choice(categories)), size, rng) for _ in range(images)]
        looks = {
            "global view": [scale_image(processor, surface.pixels) for surface in drawn],
            "crop": [scale_image(processor, crop(surface.pixels).image) for surface in drawn],
        }
        for place, pixels in looks.items():
            with torch.no_grad():
                strongest[place, size] = [
                    float(cells[:, 0].max()) for cells in read_cells(model.model.visual, head, processor, pixels)
                ]
    return {
        f"{size} in the {place}": float(
            roc_auc_score([0] * images + [1] * images, strongest[place, "none"] + strongest[place, size])
        )
        for place in ("global view", "crop")
        for size in sizes[1:]
    }


def _augment(seen: View, rng: np.random.Generator) -> View:
    turns, mirrored = int(rng.integers(4)), rng.random() < 0.5
    image, mask = np.rot90(seen.image, turns), np.rot90(seen.mask, turns)
    if mirrored:
        image, mask = image[:, ::-1], mask[:, ::-1]
    return View(np.ascontiguousarray(image), np.ascontiguousarray(mask), seen.word, seen.whole)


def train_language(
    model: Any, processor: Any, seen: Sequence[View], steps: int, batch: int, rate: float, seed: int
) -> Iterator[float]:
    """Teach the language model, in place, to name what the tower sees and where; yields the loss of each step."""
    import torch

    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 1])
    collate = make_collator(processor)
    model.model.visual.requires_grad_(False)
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(learned, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.15)
    model.train()
    for _ in range(steps):
        chosen = [_augment(seen[int(number)], rng) for number in rng.integers(0, len(seen), batch)]
        loss = model(**collate([_make_example(one, rng) for one in chosen])).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        schedule.step()
        yield loss.item()
    model.model.visual.requires_grad_(True)


def list_phrases() -> list[str]:
    """Return the phrases of the descriptions, without coordinates."""
    return [*OPENINGS, ENLARGED, CLEAN, *KINDS]


def describe_view(seen: View, rng: np.random.Generator, placed: bool = True) -> str:
    """Describe a view: what it shows and where, in either order, and not in the form of an inspection.

    The wording varies. With a single wording, the model would tie pointing to the words before it and could not point
    in other sentences.
    """
    opening = str(rng.choice(OPENINGS))
    if seen.word == CLEAN or not placed:
        return opening + seen.word
    x1, y1, x2, y2 = (round(1000 * share) for share in bounding_box(seen.mask))
    found = surfaces.snap_to_grid((x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)))
    place = f"<location>[[{', '.join(map(str, found))}]]</location>"
    return opening + (f"{seen.word} {place}" if rng.random() < 0.5 else f"{place} {seen.word}")


def _make_example(seen: View, rng: np.random.Generator) -> dict[str, Any]:
    # Use the inspector's prompt, so that the skill transfers to it.
    chat, images = prompt("surface", "default"), [seen.image]
    after = rng.random() < AFTER_WHOLE_PROBABILITY
    if after and seen.whole is not None:
        # Teach what real backbones know of chats with several images: the last image is the one in question.
        chat.append({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": ENLARGED}]})
        images = [seen.whole, seen.image]
    said = {
        "role": "assistant",
        "content": [{"type": "text", "text": describe_view(seen, rng, placed=len(images) == 1)}],
    }
    pngs = [{"bytes": encode_png(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))} for image in images]
    return {"messages": [*chat, said], "images": pngs, "tools": tool_schemas()}
