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
    repo: Annotated[
        str, typer.Option(help="OWNER/NAME on the Hub; publish.repo by default.", metavar="OWNER/NAME")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write data/publish and print what would be uploaded; upload nothing.")
    ] = False,
    pr: Annotated[bool, typer.Option("--pr", help="Open a pull request in an existing repository.")] = False,
    private: Annotated[
        bool, typer.Option("--private", help="Create a private repository; refuse an existing public one.")
    ] = False,
    tag: Annotated[bool, typer.Option("--tag", help="Tag the commit with its version, such as v1.2.0.")] = False,
    parent: Annotated[
        str, typer.Option(help="Refuse unless this is still the repository's latest commit.", metavar="COMMIT")
    ] = "",
    model: Annotated[
        Path | None, typer.Option(help="Publish this trained model instead of the corpus: models/sft or models/grpo.")
    ] = None,
) -> None:
    """Publish shards, card, changelog and Croissant metadata of the corpus as one commit; then download and compare.

    Images whose licence does not allow publishing are included by reference only (`publish.images`). Only changes are
    uploaded; without changes there is no commit. An interrupted upload continues where it stopped. The token comes
    from `hf auth login` or $HF_TOKEN.
    """
    from cot_builder.publishing.report import describe_model_plan, describe_plan

    params, workspace = load(context)
    if tag and pr:
        raise IndusCotError(
            "publish: a pull request (--pr) cannot be tagged; leave --tag out, and run `indus-cot publish --tag` "
            "after it is merged"
        )
    if model is not None:
        from cot_builder.publishing.model import plan_model, publish_model

        if not repo:
            raise IndusCotError("publish --model: name the repository with --repo OWNER/NAME")
        if dry_run:
            planned, _ = plan_model(
                params, workspace, model, repo, pull_request=pr, private=private, parent=parent, offline=True
            )
            typer.echo(describe_model_plan(planned))
            return
        sent = publish_model(params, workspace, model, repo, pull_request=pr, private=private, tag=tag, parent=parent)
        typer.echo(describe_model_plan(sent.plan, sent))
        return
    from annotation.status import get_audit_share
    from cot_builder.publishing.publish import plan as stage_plan
    from cot_builder.publishing.publish import publish as stage

    name = repo or params.publish.repo
    if not name:
        raise IndusCotError("publish: name the repository with --repo OWNER/NAME, or in publish.repo of params.yaml")
    # Read the reviews here: the package `publishing` must not import `annotation`.
    audit = get_audit_share(params, workspace)
    if dry_run:
        made, _ = stage_plan(
            params, workspace, name, pull_request=pr, private=private, parent=parent, offline=True, audit=audit
        )
        typer.echo(describe_plan(made))
        return
    done = stage(params, workspace, name, pull_request=pr, private=private, tag=tag, parent=parent, audit=audit)
    typer.echo(describe_plan(done.plan, done))


def rehydrate(
    corpus: Annotated[str, typer.Argument(help="A published corpus: a folder, or OWNER/NAME[@REVISION] on the Hub.")],
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="Your own copy of a set: a folder, an archive, or `data/pull/SET`. May be repeated.",
            metavar="SET=PATH",
        ),
    ] = None,
    to: Annotated[Path, typer.Option(help="Output folder.")] = Path("data/rehydrated"),
) -> None:
    """Restore images that were published by reference from your own copies of the data sets, checking every hash."""
    from cot_builder.publishing.rehydrate import rehydrate as rehydrate_corpus

    copies: dict[str, str] = {}
    for item in source or []:
        name, equals, path = item.partition("=")
        if not (name and equals and path):
            raise IndusCotError(f"--source {item}: write SET=PATH, such as --source real_iad=downloads/real_iad")
        if name in copies:
            raise IndusCotError(
                f"--source {item}: {name} was already given as {copies[name]}; name one folder that holds both"
            )
        copies[name] = path
    restored = rehydrate_corpus(corpus, copies, to)
    typer.echo(
        f"rehydrate: {restored.images} images restored in {restored.rows} rows, every sha256 as published → "
        f"{restored.folder}"
    )


def diff(
    before: Annotated[str, typer.Argument(help="A corpus: a folder, or OWNER/NAME[@REVISION] on the Hub.")],
    after: Annotated[str, typer.Argument(help="The corpus to compare it with.")] = "data/indus_cot",
) -> None:
    """Print the changes between two corpora: rows added, removed, changed, and reviewed again."""
    from cot_builder.publishing.changes import diff as compare

    typer.echo(compare(before, after)[1])
