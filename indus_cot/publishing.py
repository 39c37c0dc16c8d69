"""Verbs of the Hugging Face Hub: `publish`, `rehydrate`, `diff`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from indus_cot.common import load
from schemas.errors import IndusCotError

if TYPE_CHECKING:
    pass


def publish(
    context: typer.Context,
    repo: Annotated[str, typer.Option(help="OWNER/NAME on the Hub; publish.repo without.", metavar="OWNER/NAME")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write data/publish and say what would be sent; send nothing.")
    ] = False,
    pr: Annotated[bool, typer.Option("--pr", help="As a pull request to a repository that is there.")] = False,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private; refuse one that is there and public.")
    ] = False,
    tag: Annotated[bool, typer.Option("--tag", help="Tag the commit with its version, such as v1.2.0.")] = False,
    parent: Annotated[
        str, typer.Option(help="Refuse unless this is still the repository's last commit.", metavar="COMMIT")
    ] = "",
    model: Annotated[
        Path | None, typer.Option(help="Publish this trained model instead: models/sft or models/grpo.")
    ] = None,
) -> None:
    """Publish the corpus: shards, card, changelog and Croissant, as one commit; then load it back and compare.

    Licences decide what leaves: images whose set does not allow it go by reference (`publish.images`). Only what
    changed is uploaded; where nothing did, nothing is committed. An interrupted upload goes on where it stopped.
    The token is that of `hf auth login`, or $HF_TOKEN.
    """
    from cot_builder.publishing.report import describe_model_plan, describe_plan

    params, workspace = load(context)
    if tag and pr:
        raise IndusCotError(
            "publish: what is proposed with --pr is no version yet; leave --tag out, and run `indus-cot publish --tag` "
            "when it is merged"
        )
    if model is not None:
        from cot_builder.publishing.model import plan_model, publish_model

        if not repo:
            raise IndusCotError("publish --model: say where with --repo OWNER/NAME")
        if dry_run:
            planned, _ = plan_model(
                params, workspace, model, repo, pull_request=pr, private=private, parent=parent, offline=True
            )
            typer.echo(describe_model_plan(planned))
            return
        sent = publish_model(params, workspace, model, repo, pull_request=pr, private=private, tag=tag, parent=parent)
        typer.echo(describe_model_plan(sent.plan, sent))
        return
    from annotation.status import audit_share
    from cot_builder.publishing.publish import plan as stage_plan
    from cot_builder.publishing.publish import publish as stage

    name = repo or params.publish.repo
    if not name:
        raise IndusCotError("publish: say where with --repo OWNER/NAME, or in publish.repo of params.yaml")
    # Reviews are read here, since publishing stands beside annotation, not above it.
    audit = audit_share(params, workspace)
    if dry_run:
        made, _ = stage_plan(
            params, workspace, name, pull_request=pr, private=private, parent=parent, offline=True, audit=audit
        )
        typer.echo(describe_plan(made))
        return
    done = stage(params, workspace, name, pull_request=pr, private=private, tag=tag, parent=parent, audit=audit)
    typer.echo(describe_plan(done.plan, done))


def rehydrate(
    corpus: Annotated[str, typer.Argument(help="A published folder, or OWNER/NAME[@REVISION] on the Hub.")],
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="Your own copy of a set, as often as needed: a folder, an archive, or `data/pull/SET`.",
            metavar="SET=PATH",
        ),
    ] = None,
    to: Annotated[Path, typer.Option(help="Folder to write.")] = Path("data/rehydrated"),
) -> None:
    """Make a corpus whole whose images were published by reference, from your own copies; every hash is checked."""
    from cot_builder.publishing.rehydrate import rehydrate as make

    copies: dict[str, str] = {}
    for item in source or []:
        name, equals, path = item.partition("=")
        if not (name and equals and path):
            raise IndusCotError(f"--source {item}: write SET=PATH, such as --source real_iad=downloads/real_iad")
        if name in copies:
            raise IndusCotError(f"--source {item}: {name} is {copies[name]} already; name one folder that holds both")
        copies[name] = path
    made = make(corpus, copies, to)
    typer.echo(f"rehydrate: {made.images} images made in {made.rows} rows, every sha256 as published → {made.folder}")


def diff(
    before: Annotated[str, typer.Argument(help="A corpus: a folder, or OWNER/NAME[@REVISION] on the Hub.")],
    after: Annotated[str, typer.Argument(help="Another one.")] = "data/indus_cot",
) -> None:
    """Say what changed between two corpora: rows added, removed, changed, reviewed again."""
    from cot_builder.publishing.changes import diff as compare

    typer.echo(compare(before, after)[1])
