"""What a publication did or would do, in lines for a terminal."""

from cot_builder.publishing.hub import Commit
from cot_builder.publishing.model import ModelPlan
from cot_builder.publishing.publish import Plan, Published

MEGABYTE = 1e6


def told(plan: Plan, done: Published | None = None) -> str:
    """A plan, or what became of it."""
    lines = [f"{plan.repo}: Indus-CoT {plan.version}, licence {plan.licence}"]
    for config, splits in plan.shapes.items():
        for split, (rows, size, files) in splits.items():
            lines.append(f"  {config:<10} {split:<10} {rows:>7} rows {files:>6} files {size / MEGABYTE:>9.1f} MB")
    for name, source in plan.sources.items():
        how = "within the rows" if source.embedded else "by reference"
        facts = source.facts
        lines.append(f"  {name}: {facts.licence}; redistribution {facts.redistribution} ({facts.clause}): {how}")
    if plan.left_out:
        lines.append(f"  {plan.left_out} rejected drafts leak supervision and are in no preference pair")
    if plan.remote is None:
        lines.append(f"  not compared with the Hub: {plan.note}")
    elif plan.remote.head is None:
        lines.append("  the repository is not there yet")
    else:
        lines.append(f"  on top of commit {plan.remote.head}")
    if plan.changes:
        lines.append(f"  {plan.changes}")
    lines.append(
        f"  {len(plan.changed)} of {len(plan.files)} files differ, {plan.upload_bytes / MEGABYTE:.1f} MB; "
        f"{len(plan.gone)} go"
    )
    if done is None:
        lines.append("nothing was sent (dry run); the files are in data/publish")
    elif done.commit is None:
        again = f"; {done.rows_compared} rows loaded back, every hash as written" if done.rows_compared else ""
        lines.append(f"nothing changed: no commit{again}")
    else:
        what = "pull request" if done.commit.pull_request else "commit"
        lines.append(f"{what}: {done.commit.url}; {done.rows_compared} rows loaded back, every hash as written")
    if done and done.tag:
        lines.append(f"tag: {done.tag}")
    return "\n".join(lines)


def told_model(plan: ModelPlan, commit: Commit | None = None, sent: bool = False) -> str:
    """The same of a model."""
    size = sum(plan.sizes.values())
    lines = [f"{plan.repo}: {len(plan.sizes)} files, {size / MEGABYTE:.1f} MB; corpus: {plan.corpus}"]
    lines += [f"  {name} {count / MEGABYTE:.2f} MB" for name, count in sorted(plan.sizes.items())]
    lines.append(f"  {len(plan.changed)} files differ, {len(plan.gone)} go")
    if not sent:
        lines.append("nothing was sent (dry run)")
    elif commit is None:
        lines.append("nothing changed: no commit")
    else:
        lines.append(f"{'pull request' if commit.pull_request else 'commit'}: {commit.url}")
    return "\n".join(lines)
