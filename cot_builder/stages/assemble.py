"""Apply the review policy, validate every row, and write Indus-CoT for `datasets.load_dataset`."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import polars as pl
import pyarrow.parquet as pq

from cot_builder.corpus.drafts import ObservationImages, derive_columns, read_trajectory
from cot_builder.corpus.priors import read_priors
from cot_builder.corpus.reading import SPLITS
from cot_builder.corpus.reviews import Decision, decide_drafts, read_reviews
from cot_builder.corpus.writing import row_id, write_split
from cot_builder.inspection.rendering import render_messages, render_tags
from cot_builder.inspection.toolbox import Toolbox, tool_schemas
from cot_builder.params import Params
from cot_builder.progress import track
from cot_builder.storage.images import encode_png
from cot_builder.storage.output import Output, stage_output, write_text
from cot_builder.storage.samples import SampleImages
from cot_builder.storage.workspace import Workspace, file_hash
from schemas.errors import IndusCotError
from schemas.indus_cot import Image, IndusCot, PatchRef, PriorRef
from schemas.patch import PATCH
from schemas.prior import PRIOR, NormalcyPrior
from schemas.sample import SAMPLE, Sample
from schemas.selection import SPLIT
from schemas.trajectory import DRAFT, Draft, Trajectory


def assemble(params: Params, workspace: Workspace) -> None:
    """Write ``data/indus_cot``: parquet shards for each split with embedded images, the priors, and a dataset card.

    Drafts that an expert rejected are left out; drafts that an expert corrected are used with the corrections. The
    parameter ``assemble.review`` decides on drafts without a review: ``auto`` includes and marks them, ``reviewed``
    leaves them out.

    Raises:
        IndusCotError: an earlier stage has not run; a row does not match the schema of the table; an image does not
            match its hash.
    """
    paths = {
        "trajectory": workspace.draft / "trajectory.parquet",
        "sample": workspace.select / "sample.parquet",
        "split": workspace.select / "split.parquet",
        "patch": workspace.patch / "patch.parquet",
        "prior": workspace.prior / "prior.parquet",
    }
    inputs = {name: file_hash(path) for name, path in paths.items()}
    drafts = DRAFT.read(paths["trajectory"]).sort("draft_id")
    samples = {row.sample_id: row for row in SAMPLE.records(SAMPLE.read(paths["sample"]))}
    splits = dict(SPLIT.read(paths["split"]).select("sample_id", "split").iter_rows())
    patches = _group_proposals(PATCH.read(paths["patch"]))
    sets = [name for name, source in params.pull.items() if source.role == "train"]
    prior_table = PRIOR.read(paths["prior"]).filter(pl.col("source_set").is_in(sets))
    priors = {(row.source_set, row.category, row.view): row for row in PRIOR.records(prior_table)}
    if unknown := sorted(set(drafts["sample_id"]) - samples.keys()):
        raise IndusCotError(
            f"data/draft has {len(unknown)} samples that `select` no longer selects, for example {unknown[0]}; run "
            "`indus-cot repro draft`"
        )
    images, observations = SampleImages(workspace), ObservationImages(workspace.draft)
    if workspace.reviews.is_file():
        inputs["reviews"] = file_hash(workspace.reviews)
    reviews = read_reviews(workspace)
    decided = decide_drafts(reviews)
    current = set(drafts["draft_sha256"])
    unused = {
        "reviews of changed drafts": sum(row.draft_sha256 not in current for row in reviews),
        "reviews sent back": sum(bool(row.problems) and row.draft_sha256 in current for row in reviews),
    }
    observation_loader = ObservationLoader(images, observations, read_priors(workspace, sets))
    settings = params.assemble.model_dump()
    with stage_output(
        workspace.indus_cot, stage="assemble", params=settings, inputs=inputs, strict=params.run.strict
    ) as output:
        taken = _apply_reviews(DRAFT.records(drafts), decided, params.assemble.review, output)
        # Sort by id. Ids are hashes, and `publish` starts a new shard where their leading bits change.
        taken.sort(key=lambda item: row_id(item.draft.draft_id))
        tally: Counter[str] = Counter()
        for split in SPLITS:
            chosen = [item for item in taken if splits.get(item.draft.sample_id) == split]
            rows = (
                _make_row(item, samples[item.draft.sample_id], split, images, observation_loader, patches, priors)
                for item in chosen
            )
            tally[split] = write_split(output.path / "data", split, track(rows, f"assemble {split}", len(chosen)))
        # Record the validated bytes: `publish` refuses files with other hashes.
        output.outputs |= {
            f"data/{path.name}": file_hash(path) for path in sorted((output.path / "data").glob("*.parquet"))
        }
        if tally.total() == 0:
            raise IndusCotError(
                f"assemble: none of the {len(drafts)} drafts became a row. See reports/gates.md and left_out.csv; "
                "assemble.review: reviewed leaves out all drafts without a review"
            )
        PRIOR.write(prior_table, output.path / "priors" / "priors.parquet")
        status = Counter(item.status for item in taken)
        output.counts |= dict(tally) | dict(status) | {"normal": sum(item.draft.answer == "No" for item in taken)}
        output.counts |= {name: count for name, count in unused.items() if count}
        write_text(
            output.path / "README.md",
            _render_card(output.path, tally, sorted({row.licence for row in samples.values()})),
        )


class _AssembledDraft(NamedTuple):
    """A draft that becomes a row, with the experts' corrections."""

    draft: Draft
    status: Literal["auto", "accepted", "fixed"]
    reviewers: int


def _apply_reviews(
    drafts: Iterable[Draft], decided: Mapping[str, Decision], policy: Literal["auto", "reviewed"], output: Output
) -> list[_AssembledDraft]:
    taken: list[_AssembledDraft] = []
    for draft in drafts:
        decision = decided.get(draft.draft_sha256)
        if decision is None and policy == "auto":
            taken.append(_AssembledDraft(draft, "auto", 0))
        elif decision is None:
            # A decision, not an error, so a strict run continues.
            output.left_out.append(("not reviewed", draft.draft_id, "assemble.review is reviewed"))
        elif decision.status == "rejected":
            output.left_out.append(("rejected by an expert", draft.draft_id, "; ".join(decision.reasons)))
        else:
            # Only the columns derived from the trajectory change.
            corrected = Trajectory.model_validate_json(decision.trajectory)
            taken.append(
                _AssembledDraft(draft.model_copy(update=derive_columns(corrected)), decision.status, decision.reviewers)
            )
    return taken


class ObservationLoader:
    """Loads the observation images of a trajectory; if an expert edited a tool call, runs the call again."""

    def __init__(
        self, images: SampleImages, observations: ObservationImages, priors: Mapping[tuple[str, str], str]
    ) -> None:
        self._images = images
        self._observations = observations
        self._priors = priors

    def load(self, trajectory: Trajectory, sample: Sample) -> list[bytes]:
        """Return the PNG bytes of every observation image, in order.

        Raises:
            IndusCotError: a call returns another image than when the review was pulled; a stored image is damaged.
        """
        toolbox: Toolbox | None = None
        found: list[bytes] = []
        for number, turn in enumerate(trajectory.turns, 1):
            digest = turn.observation.image_sha256 if turn.observation else None
            if digest is None or turn.call is None:
                continue
            if digest in self._observations:
                png = self._observations.get(digest)
                if hashlib.sha256(png).hexdigest() != digest:
                    raise IndusCotError(
                        f"{sample.sample_id}, turn {number}: the observation image in data/draft does not match its "
                        "hash; run `indus-cot repro draft`"
                    )
                found.append(png)
                continue
            toolbox = toolbox or Toolbox(self._images.pixels(sample), self._priors)
            observation, made = toolbox.observe(turn.call)
            if made is None or observation.image_sha256 != digest:
                raise IndusCotError(
                    f"{sample.sample_id}, turn {number}: the tool call that an expert edited returns another image "
                    "than when the review was pulled; delete data/review/state.json and run `indus-cot review pull`"
                )
            found.append(made)
        return found


def _group_proposals(table: pl.DataFrame) -> dict[str, list[PatchRef]]:
    """Group proposals by sample, most conspicuous first; skip patches that were chosen with the ground truth."""
    found: dict[str, list[PatchRef]] = {}
    proposals = table.filter(pl.col("kind") == "proposal").sort("sample_id", "rank")
    for row in proposals.select("sample_id", "box", "score").iter_rows(named=True):
        found.setdefault(row.pop("sample_id"), []).append(PatchRef.model_validate(row))
    return found


def _make_row(
    taken: _AssembledDraft,
    sample: Sample,
    split: Any,
    images: SampleImages,
    observation_loader: ObservationLoader,
    patches: dict[str, list[PatchRef]],
    priors: dict[tuple[str, str, str], NormalcyPrior],
) -> IndusCot:
    draft = taken.draft
    trajectory = read_trajectory(draft)
    original = images.original(sample)
    if hashlib.sha256(original).hexdigest() != sample.image_sha256:
        raise IndusCotError(
            f"{sample.sample_id}: the image in data/pull/{sample.source_set} does not match its hash; run "
            f"`indus-cot repro pull@{sample.source_set}`"
        )
    name = row_id(draft.draft_id)
    whole = Image(bytes=original, path=f"{name}.{sample.image_format.lower()}")
    inspected = (
        whole if sample.region is None else Image(bytes=encode_png(images.pixels(sample)), path=f"{name}_region.png")
    )
    pngs = zip(draft.observations, observation_loader.load(trajectory, sample), strict=True)
    shown = [Image(bytes=png, path=f"{digest[:16]}.png") for digest, png in pngs]
    prior = priors.get((sample.source_set, sample.category, sample.view))
    return IndusCot(
        id=name,
        sample_id=sample.sample_id,
        source_set=sample.source_set,
        category=sample.category,
        view=sample.view,
        split=split,
        image=whole,
        image_sha256=sample.image_sha256,
        region=sample.region,
        patch_pairs=patches.get(sample.sample_id, []),
        prior=PriorRef(**prior.model_dump(include=set(PriorRef.model_fields))) if prior else None,
        messages=json.dumps(render_messages(trajectory, sample.category, sample.view), ensure_ascii=False),
        images=[inspected, *shown],
        tools=json.dumps(tool_schemas()),
        trajectory=draft.trajectory,
        tagged=render_tags(trajectory),
        answer=draft.answer,
        boxes=draft.boxes,
        defect_type=draft.defect_type,
        tool_calls=draft.tools,
        gates=draft.gates,
        judge_scores=draft.judge_scores,
        judge_disagreement=draft.judge_disagreement,
        review_status=taken.status,
        reviewers=taken.reviewers,
        teacher=draft.teacher,
        prompt_version=draft.prompt_version,
        toolbox_version=draft.toolbox_version,
        cost_usd=draft.cost_usd,
        licence=sample.licence,
    )


def _render_card(folder: Path, tally: Counter[str], licences: Sequence[str]) -> str:
    present = "\n".join(f"  - split: {name}\n    path: data/{name}-*.parquet" for name in SPLITS if tally[name])
    return f"""---
pretty_name: Indus-CoT
configs:
- config_name: default
  default: true
  data_files:
{present}
- config_name: priors
  data_files:
  - split: train
    path: priors/priors.parquet
dataset_info:
{_render_info("default", {name: sorted(folder.glob(f"data/{name}-*.parquet")) for name in SPLITS if tally[name]})}
{_render_info("priors", {"train": [folder / "priors" / "priors.parquet"]})}
---
# Indus-CoT

Tool-integrated inspection trajectories: {", ".join(f"{tally[name]} {name}" for name in SPLITS)}.

```python
from datasets import load_dataset
corpus = load_dataset("data/indus_cot")
```

`messages` are chat messages with native tool calls; `images` contains their images in order. `tools` are the function
schemas. `trajectory` is the same trajectory as structured JSON, and `tagged` uses the tags of arXiv 2605.20682.
Coordinates are integers from 0 to 1000, relative to the inspected image. `review_status: auto` means that no person
has reviewed the row. `accepted` and `fixed` mean that experts (their number is `reviewers`) have reviewed it; a
`fixed` row was corrected by one of them.

Licences of the images: {"; ".join(licences)}.

To run every tool call again and compare the results: `indus-cot verify FOLDER`.
"""


def _render_info(config: str, shards: dict[str, list[Path]]) -> str:
    """Render the sizes of a configuration for `datasets`.

    The cache key of `datasets` for a local data set with configurations includes these sizes, but nothing else of the
    files. Without them, `datasets` would load a rebuilt corpus in the same folder from the old cache.
    """
    sizes = {split: sum(path.stat().st_size for path in paths) for split, paths in shards.items()}
    rows = {split: sum(pq.read_metadata(path).num_rows for path in paths) for split, paths in shards.items()}
    listed = "\n".join(
        f"  - name: {split}\n    num_bytes: {sizes[split]}\n    num_examples: {rows[split]}" for split in shards
    )
    total = sum(sizes.values())
    return f"- config_name: {config}\n  splits:\n{listed}\n  download_size: {total}\n  dataset_size: {total}"
