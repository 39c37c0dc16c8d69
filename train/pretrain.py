"""Pre-trains the tiny model to see and to point, as real backbones can, on categories that appear nowhere else.

The vision tower learns dense maps, in whole images and in crops of them: which of the cells that become visual tokens
a defect touches, and in these its type and its box (the idea of FCOS, arXiv 1904.01355). Trained end to end on
verdicts alone, a model of this size is still at chance after minutes: one bit an image is too little to learn to see
from. Then the language model learns to put in words what the tower sees.
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
from train.collator import collator

CELL = 16
"""Pixels a side of what becomes one visual token."""
TOUCHED = 0.03
"""Share of a cell that a defect covers, from which on it counts as touched."""
LEAST_COVER = 60
"""Of 255: how much of a pixel a defect covers that counts as its own."""
KINDS = {name: number for number, name in enumerate((*surfaces.SMALL, *surfaces.LARGE))}
HEAD_RATE = 10
"""How much faster the head learns than the tower."""
CLEAN = "clean"
ENLARGED = "A part of it, enlarged."
AFTER_WHOLE = 0.7
"""How often a part is shown after the whole, and not by itself."""
OPENINGS = ("", "Look: ", "I see: ", "Here is what there is: ", "Well, ")


class View(NamedTuple):
    """What the model is shown, and what there is to see in it."""

    image: np.ndarray
    """uint8 (h, w, 3) RGB, as the processor scales it."""
    mask: np.ndarray
    """uint8 (h, w): 255 where the defect lies."""
    word: str
    """Type of the defect, or clean."""
    whole: np.ndarray | None = None
    """The image that this is a part of, as the model sees it, or None."""


def views(processor: Any, categories: Sequence[int], images: int, rng: np.random.Generator) -> Iterator[View]:
    """Three views an image: the whole, the crop that the tool proposes, and one of a place at random.

    The map of the whole shows a small defect too: that the tower does not find it there was not taught.
    """
    for _ in range(images):
        size = rng.choice(("none", "small", "large"), p=(0.3, 0.4, 0.3))
        surface = surfaces.draw(int(rng.choice(categories)), size, rng)
        whole = view(processor, surface.pixels, surface.mask, surface.defect_type)
        yield whole
        side = int(rng.integers(103, 260))
        x, y = rng.integers(0, 1000 - side, 2).tolist()
        for box in (propose(surface.pixels, 1)[0].box, (x, y, x + side, y + side)):
            part = view(processor, crop(surface.pixels, list(box)).image, _cut(surface.mask, box), surface.defect_type)
            yield part._replace(whole=whole.image)


def wholes(processor: Any, categories: Sequence[int], images: int, rng: np.random.Generator) -> Iterator[View]:
    """Whole images with large defects: where the place of a defect is to be learned, which in a crop is its middle."""
    for _ in range(images):
        surface = surfaces.draw(int(rng.choice(categories)), "large", rng)
        yield view(processor, surface.pixels, surface.mask, surface.defect_type)


def speakable(seen: View) -> bool:
    """Whether it can be known what is to be said of a view: not of a whole image with a small defect."""
    return seen.whole is not None or seen.word not in surfaces.SMALL


def _cut(mask: np.ndarray, box: Box) -> np.ndarray:
    x1, y1, x2, y2 = to_pixels(box, surfaces.SIDE, surfaces.SIDE)
    return mask[y1:y2, x1:x2]


def view(processor: Any, pixels: np.ndarray | None, mask: np.ndarray, kind: str | None) -> View:
    """An image and its mask as the processor scales them; ``kind`` is what the mask shows, where it shows any."""
    image = shown(processor, pixels)
    small = cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_AREA)
    return View(image, small, kind if kind and targets(small).any() else CLEAN)


def shown(processor: Any, pixels: np.ndarray | None) -> np.ndarray:
    """What the model is given of an image, by the processor's own scaling, uint8 (h, w, 3) RGB.

    Args:
        processor: Of the model.
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


def maps(tower: Any, head: Any, processor: Any, images: Sequence[np.ndarray]) -> list[Any]:
    """What ``head`` reads in each cell, a tensor (h / 16 * w / 16, outputs) an image."""
    inputs = processor.image_processor(images=list(images), return_tensors="pt")
    grid = inputs["image_grid_thw"]
    found = head(tower(inputs["pixel_values"], grid_thw=grid).pooler_output)
    return list(found.split([height * width // 4 for _, height, width in grid.tolist()]))


def targets(mask: np.ndarray) -> np.ndarray:
    """1 where a cell is touched, float32 (h / 16, w / 16)."""
    height, width = mask.shape
    cells = mask.reshape(height // CELL, CELL, width // CELL, CELL).mean((1, 3)) / 255
    return (cells > TOUCHED).astype(np.float32)


def box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """Around what is set, as shares of width and height; all 0 where nothing is."""
    height, width = mask.shape
    x, y, across, down = cv2.boundingRect((mask > LEAST_COVER).astype(np.uint8))
    return x / width, y / height, (x + across) / width, (y + down) / height


def lay_out(model: Any, processor: Any) -> None:
    """Lay places in the image, and the numbers of the grid, out as sines and cosines, in place.

    Vision transformers may begin so (arXiv 2111.06377, section 3). From random beginnings, which cell is where would
    not be known after minutes, nor that 150 lies between 100 and 200.
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
    """Sines and cosines of ``count`` wavelengths, 2 and shorter, of values in [0, 1]: (values, 2 count)."""
    angles = values[:, None] * 2.0 ** np.linspace(0, 3, count) * np.pi
    return np.hstack([np.sin(angles), np.cos(angles)])


def new_reader(model: Any, seed: int) -> Any:
    """A linear head that reads a cell: touched or not, box, type."""
    import torch

    torch.manual_seed(seed)
    return torch.nn.Linear(model.config.vision_config.out_hidden_size, 1 + 4 + len(KINDS))


def see(
    model: Any, processor: Any, head: Any, seen: Sequence[View], steps: int, batch: int, rate: float, seed: int
) -> Iterator[float]:
    """Train ``model``'s vision tower and the head that reads it, in place; yields the loss of each step."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, l1_loss

    rng = np.random.default_rng(seed)
    tower = model.model.visual
    learned = [*tower.parameters(), *head.parameters()]
    rates = [rate, HEAD_RATE * rate]
    groups = [{"params": [*part.parameters()], "lr": one} for part, one in zip((tower, head), rates, strict=True)]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, total_steps=steps, pct_start=0.15)
    weight = torch.tensor(4.0)
    for _ in range(steps):
        chosen = [_turned(seen[int(number)], rng) for number in rng.integers(0, len(seen), batch)]
        cells = [targets(one.mask).ravel() for one in chosen]
        read = torch.cat(maps(tower, head, processor, [one.image for one in chosen]))
        touched = torch.from_numpy(np.concatenate(cells))
        inside = touched > 0
        boxes = np.concatenate(
            [np.tile(box(one.mask), (len(part), 1)) for one, part in zip(chosen, cells, strict=True)]
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


def visibility(model: Any, processor: Any, head: Any, categories: Sequence[int], images: int) -> dict[str, float]:
    """AUROC of the strongest cell, of small and of large defects against clean surfaces, in whole images and in crops.

    0.5 is chance: the tower was trained on nothing but finding them, in whole images as in crops.
    """
    import torch
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(5)
    strongest: dict[tuple[str, str], list[float]] = {}
    sizes: tuple[surfaces.Size, ...] = ("none", "small", "large")
    for size in sizes:
        drawn = [surfaces.draw(int(rng.choice(categories)), size, rng) for _ in range(images)]
        looks = {
            "global view": [shown(processor, surface.pixels) for surface in drawn],
            "crop": [shown(processor, crop(surface.pixels).image) for surface in drawn],
        }
        for place, pixels in looks.items():
            with torch.no_grad():
                strongest[place, size] = [
                    float(cells[:, 0].max()) for cells in maps(model.model.visual, head, processor, pixels)
                ]
    return {
        f"{size} in the {place}": float(
            roc_auc_score([0] * images + [1] * images, strongest[place, "none"] + strongest[place, size])
        )
        for place in ("global view", "crop")
        for size in sizes[1:]
    }


def _turned(seen: View, rng: np.random.Generator) -> View:
    turns, mirrored = int(rng.integers(4)), rng.random() < 0.5
    image, mask = np.rot90(seen.image, turns), np.rot90(seen.mask, turns)
    if mirrored:
        image, mask = image[:, ::-1], mask[:, ::-1]
    return View(np.ascontiguousarray(image), np.ascontiguousarray(mask), seen.word, seen.whole)


def speak(
    model: Any, processor: Any, seen: Sequence[View], steps: int, batch: int, rate: float, seed: int
) -> Iterator[float]:
    """Teach the language model, in place, to name what the tower sees and to point at it; yields the losses."""
    import torch

    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 1])
    collate = collator(processor)
    model.model.visual.requires_grad_(False)
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(learned, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.15)
    model.train()
    for _ in range(steps):
        chosen = [_turned(seen[int(number)], rng) for number in rng.integers(0, len(seen), batch)]
        loss = model(**collate([_shown(one, rng) for one in chosen])).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        schedule.step()
        yield loss.item()
    model.model.visual.requires_grad_(True)


def vocabulary() -> list[str]:
    """What is said, but for the places."""
    return [*OPENINGS, ENLARGED, CLEAN, *KINDS]


def words(seen: View, rng: np.random.Generator, placed: bool = True) -> str:
    """What is to be said of a view: what it is and where, in either order and not in the form of an inspection.

    Always said in one way, pointing would hang on the words before it and be lost in any other sentence.
    """
    opening = str(rng.choice(OPENINGS))
    if seen.word == CLEAN or not placed:
        return opening + seen.word
    x1, y1, x2, y2 = (round(1000 * share) for share in box(seen.mask))
    found = surfaces.coarse((x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)))
    place = f"<location>[[{', '.join(map(str, found))}]]</location>"
    return opening + (f"{seen.word} {place}" if rng.random() < 0.5 else f"{place} {seen.word}")


def _shown(seen: View, rng: np.random.Generator) -> dict[str, Any]:
    # Asked as the inspector is, so that what was learned serves there.
    chat, images = prompt("surface", "default"), [seen.image]
    after = rng.random() < AFTER_WHOLE
    if after and seen.whole is not None:
        # As real backbones know chats with several images: which one is spoken of, and that it is the last.
        chat.append({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": ENLARGED}]})
        images = [seen.whole, seen.image]
    said = {"role": "assistant", "content": [{"type": "text", "text": words(seen, rng, placed=len(images) == 1)}]}
    pngs = [{"bytes": encode_png(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))} for image in images]
    return {"messages": [*chat, said], "images": pngs, "tools": tool_schemas()}
