"""Text report of a publication or a dry run, for the terminal."""

from cot_builder.publishing.hub import Commit, Remote, size_of
from cot_builder.publishing.model import ModelPlan, ModelPublication
from cot_builder.publishing.publish import Plan, Publication

MEGABYTE = 1e6
SHOWN = 3


def describe_plan(plan: Plan, done: Publication | None = None) -> str:
    """Describe a plan, or a finished publication."""
    lines = [f"{plan.repo}: Indus-CoT {plan.version}, licence {plan.licence}"]
    for config, splits in plan.sizes.items():
        for split, (rows, size, files) in splits.items():
            lines.append(f"  {config:<10} {split:<10} {rows:>7} rows {files:>6} files {size / MEGABYTE:>9.1f} MB")
    for name, source in plan.sources.items():
        how = "within the rows" if source.embedded else "by reference"
        facts = source.facts
        lines.append(f"  {name}: {facts.licence}; redistribution {facts.redistribution} ({facts.clause}): {how}")
    lines += [f"  {line}" for line in plan.left_out]
    lines.append(_describe_remote(plan.remote, plan.note))
    if plan.changes:
        lines.append(f"  {plan.changes}")
    lines.append(
        f"  {len(plan.changed)} of {len(plan.files)} files differ, {plan.upload_bytes / MEGABYTE:.1f} MB; "
        f"{len(plan.deleted)} go"
        + (f" ({', '.join(plan.deleted[:SHOWN])}{' …' * (len(plan.deleted) > SHOWN)})" if plan.deleted else "")
    )
    if done is None:
        lines.append("nothing was sent (dry run); the files are in data/publish")
    elif done.commit is None:
        again = f"; {done.rows_compared} rows loaded back, every hash as written" if done.rows_compared else ""
        lines.append(f"nothing changed: no commit{again}")
    else:
        compared = f"{done.rows_compared} rows loaded back, every hash as written"
        # An existing pull request was compared by an earlier run.
        lines.append(
            f"{_name_commit(done.commit)}: {done.commit.url}; {compared if done.rows_compared else 'compared before'}"
        )
    if done and done.tag:
        lines.append(f"tag: {done.tag}")
    return "\n".join(lines)


def describe_model_plan(plan: ModelPlan, done: ModelPublication | None = None) -> str:
    """Describe a plan or a finished publication of a model."""
    sizes = {name: size_of(source) for name, source in plan.files.items()}
    lines = [
        f"{plan.repo}: model {plan.version}, {len(sizes)} files, {sum(sizes.values()) / MEGABYTE:.1f} MB; corpus: "
        f"{plan.corpus}"
    ]
    lines += [f"  {name} {count / MEGABYTE:.2f} MB" for name, count in sorted(sizes.items())]
    lines.append(_describe_remote(plan.remote, plan.note))
    lines.append(f"  {len(plan.changed)} files differ, {len(plan.deleted)} go")
    if done is None:
        lines.append("nothing was sent (dry run)")
    elif done.commit is None:
        lines.append("nothing changed: no commit")
    else:
        lines.append(f"{_name_commit(done.commit)}: {done.commit.url}; {len(sizes)} files there, every hash as written")
    if done and done.tag:
        lines.append(f"tag: {done.tag}")
    return "\n".join(lines)


def _describe_remote(remote: Remote | None, note: str) -> str:
    if remote is None:
        return f"  not compared with the Hub: {note}"
    return "  the repository does not exist yet" if remote.head is None else f"  on top of commit {remote.head}"


def _name_commit(commit: Commit) -> str:
    return "pull request" if commit.pull_request else "commit"
