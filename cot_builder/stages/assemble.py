"""Applies the review policy, validates every row and writes Indus-CoT for `datasets.load_dataset`."""

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
    """Write ``data/indus_cot``: parquet shards a split with images embedded, the priors, a card.

    A draft an expert rejected is left out; one they corrected is taken as they left it. Of a draft nobody has
    looked at, ``assemble.review`` decides: ``auto`` takes it and marks it so, ``reviewed`` leaves it out.

    Raises:
        IndusCotError: an earlier stage has not run; a row breaks the contract of the table; an image is not the one
            of its hash.
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
            f"draft holds {len(unknown)} samples that select no longer has, {unknown[0]} first; draft again"
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
    rerun = ObservationLoader(images, observations, read_priors(workspace, sets))
    settings = params.assemble.model_dump()
    with stage_output(
        workspace.indus_cot, stage="assemble", params=settings, inputs=inputs, strict=params.run.strict
    ) as output:
        taken = _apply_reviews(DRAFT.records(drafts), decided, params.assemble.review, output)
        # In the order of the ids, which are hashes: `publish` cuts its shards where the leading bits change.
        taken.sort(key=lambda item: row_id(item.draft.draft_id))
        tally: Counter[str] = Counter()
        for split in SPLITS:
            chosen = [item for item in taken if splits.get(item.draft.sample_id) == split]
            rows = (
                _make_row(item, samples[item.draft.sample_id], split, images, rerun, patches, priors) for item in chosen
            )
            tally[split] = write_split(output.path / "data", split, track(rows, f"assemble {split}", len(chosen)))
        # What was validated: `publish` takes no other bytes.
        output.outputs |= {
            f"data/{path.name}": file_hash(path) for path in sorted((output.path / "data").glob("*.parquet"))
        }
        if tally.total() == 0:
            raise IndusCotError(
                f"assemble: no row is left of {len(drafts)} drafts; see reports/gates.md, left_out.csv "
                "and assemble.review, which may ask for a review of each"
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
    """A draft that becomes a row, as the experts left it."""

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
            # A decision, not a loss: a strict run goes on.
            output.left_out.append(("not reviewed", draft.draft_id, "assemble.review is reviewed"))
        elif decision.status == "rejected":
            output.left_out.append(("rejected by an expert", draft.draft_id, "; ".join(decision.reasons)))
        else:
            # The draft's own columns stay where nothing was changed.
            left = Trajectory.model_validate_json(decision.trajectory)
            taken.append(
                _AssembledDraft(draft.model_copy(update=derive_columns(left)), decision.status, decision.reviewers)
            )
    return taken


class ObservationLoader:
    """Observation images: those of the drafts, and those of calls an expert edited, which are run again."""

    def __init__(
        self, images: SampleImages, observations: ObservationImages, priors: Mapping[tuple[str, str], str]
    ) -> None:
        self._images = images
        self._observations = observations
        self._priors = priors

    def images(self, trajectory: Trajectory, sample: Sample) -> list[bytes]:
        """PNG bytes of every observation image, in order.

        Raises:
            IndusCotError: a call returns something else than when the review was pulled; a kept image is damaged.
        """
        box: Toolbox | None = None
        found: list[bytes] = []
        for number, turn in enumerate(trajectory.turns, 1):
            digest = turn.observation.image_sha256 if turn.observation else None
            if digest is None or turn.call is None:
                continue
            if digest in self._observations:
                png = self._observations.get(digest)
                if hashlib.sha256(png).hexdigest() != digest:
                    raise IndusCotError(
                        f"{sample.sample_id}, turn {number}: the observation image in data/draft is not the one of its "
                        "hash; run `indus-cot repro draft`"
                    )
                found.append(png)
                continue
            box = box or Toolbox(self._images.pixels(sample), self._priors)
            observation, made = box.observe(turn.call)
            if made is None or observation.image_sha256 != digest:
                raise IndusCotError(
                    f"{sample.sample_id}, turn {number}: the call an expert edited returns another image than when "
                    "the review was pulled; remove data/review/state.json and run `indus-cot review pull`"
                )
            found.append(made)
        return found


def _group_proposals(table: pl.DataFrame) -> dict[str, list[PatchRef]]:
    """Proposals by sample, most conspicuous first; the other kinds of patch were chosen by the truth."""
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
    rerun: ObservationLoader,
    patches: dict[str, list[PatchRef]],
    priors: dict[tuple[str, str, str], NormalcyPrior],
) -> IndusCot:
    draft = taken.draft
    trajectory = read_trajectory(draft)
    original = images.original(sample)
    if hashlib.sha256(original).hexdigest() != sample.image_sha256:
        raise IndusCotError(
            f"{sample.sample_id}: the image in data/pull/{sample.source_set} is not the one of its hash; run "
            f"`indus-cot repro pull@{sample.source_set}`"
        )
    name = row_id(draft.draft_id)
    whole = Image(bytes=original, path=f"{name}.{sample.image_format.lower()}")
    inspected = (
        whole if sample.region is None else Image(bytes=encode_png(images.pixels(sample)), path=f"{name}_region.png")
    )
    pngs = zip(draft.observations, rerun.images(trajectory, sample), strict=True)
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

`messages` are chat messages with native tool calls; their images, in order, are `images`. `tools` are the function
schemas. `trajectory` is the same as structure and `tagged` in the tags of arXiv 2605.20682. Coordinates are
integers 0-1000 of the inspected image. `review_status: auto` means that no person has looked at the row; `accepted`
and `fixed`, that as many experts as `reviewers` says have, and that one of them corrected it.

Licences of the images: {"; ".join(licences)}.

Every tool call can be run again: `indus-cot verify FOLDER`.
"""


def _render_info(config: str, shards: dict[str, list[Path]]) -> str:
    """Sizes of a configuration, for `datasets`.

    Its cache of a local data set with configurations is keyed by these and by nothing of the files themselves:
    without them, a corpus made anew in the same place would be read from the cache of the old one.
    """
    sizes = {split: sum(path.stat().st_size for path in paths) for split, paths in shards.items()}
    rows = {split: sum(pq.read_metadata(path).num_rows for path in paths) for split, paths in shards.items()}
    listed = "\n".join(
        f"  - name: {split}\n    num_bytes: {sizes[split]}\n    num_examples: {rows[split]}" for split in shards
    )
    total = sum(sizes.values())
    return f"- config_name: {config}\n  splits:\n{listed}\n  download_size: {total}\n  dataset_size: {total}"
