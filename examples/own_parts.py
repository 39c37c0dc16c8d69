"""Make a corpus of your own photographs: a project folder, a table of labels, and the verbs one after the other.

Runs on its own: `.venv/bin/python examples/own_parts.py [FOLDER]`. It draws the photographs; put yours in their place.
"""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from PIL import Image, ImageDraw

CATEGORIES = ("washer", "bracket")
COLUMNS = ("image", "label", "boxes", "type", "category")


def draw_photograph(random: np.random.Generator, box: list[int] | None) -> Image.Image:
    """A bright part on a dark ground, with a stain if there is a box, pixels [x1, y1, x2, y2]."""
    picture = Image.fromarray(random.normal(70, 5, (256, 256, 3)).clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    pen.ellipse([40, 40, 216, 216], fill=(170, 172, 175))
    if box:
        pen.ellipse(box, fill=(90, 60, 40))
    return picture


def write_photographs(folder: Path) -> None:
    """Pictures and `labels.csv`, one row for each picture. Box and type are for defective parts only."""
    random = np.random.default_rng(1)
    rows = []
    for category in CATEGORIES:
        (folder / category).mkdir(parents=True)
        for number in range(12):
            x, y = (int(value) for value in random.integers(80, 150, 2))
            box = [x, y, x + 30, y + 22] if number % 2 else None
            name = f"{category}/{number:02}.png"
            draw_photograph(random, box).save(folder / name)
            label, kind = ("bad", "stain") if box else ("good", "")
            rows.append([name, label, " ".join(map(str, box or [])), kind, category])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


def run(*command: str, folder: Path) -> None:
    """Run a verb of `indus-cot` in a folder, as you would in a terminal."""
    print("$ indus-cot", *command, flush=True)
    subprocess.run([sys.executable, "-m", "indus_cot", *command], cwd=folder, check=True)


project = Path(sys.argv[1] if len(sys.argv) > 1 else "my-parts").absolute()
run("init", str(project), folder=Path.cwd())
write_photographs(project / "photos")
params = yaml.safe_load((project / "params.yaml").read_text("utf-8"))
params["pull"] = {"my_parts": {"benchmark": "folder", "source": "photos/labels.csv", "role": "train"}}
(project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), "utf-8")
for verb in ("pull my_parts", "select", "patch", "prior", "draft", "assemble", "verify"):
    run(*verb.split(), folder=project)
