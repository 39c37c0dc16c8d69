"""Secrets and paths are found whatever stands beside them, and lawful texts are let pass."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cot_builder.params import Params, PullSet
from cot_builder.publishing import secrets
from cot_builder.storage.output import stage_output
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError
from schemas.prior_review import PRIOR_REVIEW, PriorReview
from schemas.review import REVIEW
from tests.cot_builder.corpus.test_reviews import make_review
from tests.helpers import small_corpus

SECRETS = (
    f"hf_{'a1' * 12}", f"sk-proj-{'a1' * 12}", "AKIA0123456789ABCDEF", f"ghp_{'a1' * 12}", f"github_pat_{'a1' * 15}",
    f"glpat-{'a1' * 10}", "xoxb-123456789012-abc", f"AIza{'Sy1' * 12}", f"bearer {'a1' * 12}", "Authorization: Bearer abcdefghijklmnop",
    "-----BEGIN RSA PRIVATE KEY-----", "https://bob:pass@example.org", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbg",
)  # fmt: skip
PATHS = (
    "/home/bob/x.png", "/scratch/a.png", "/workspace/x", "/gpfs/projects/x", "/Volumes/My Disk", "/usr/lib/x", "/root/a",
    "D:\\images\\x.png", "C:\\\\Users\\bob", "\\\\nas\\share\\x", "~/parts", "file:///x", "/data/teile/größe.png",
)  # fmt: skip
ANYWHERE = ("/cluster/images/x.png", "/数据/图.png", "/x/1", "/.cache/x")
"""Paths of no known root: found where a path can begin."""
LAWFUL = (
    "and/or", "</think><type>pit</type>", "https://example.org/a/b?x=1", "1/2 of 3/4", "5 N/mm, 3 m/s/s", "yes/no/unsure",
    'load_dataset("you/indus-cot", "sft")', "crown/root/stem", "see data/pull/visa", "sft/*/*.parquet", "Option A:\nfoo\nbar",
    "a task-oriented-inspection-of-parts", "正常/异常/其他", "<br/>", "a / b / c", "(1/2/3)", "at 10 o'clock: [12, 40]",
    "owner/name@v1.0.0", "the bearer replacement", "~5 px", "width:\n\n/ none", "\\alpha and \\beta",
)  # fmt: skip
AROUND = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@pytest.fixture(scope="module")
def expression(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("leaks")
    with stage_output(root / "data" / "review", stage="review", params={}, inputs={}) as output:
        table = [make_review(1, reviewer="Jane.Doe"), make_review(2, reviewer="Ann")]
        REVIEW.write(REVIEW.frame(table), output.path / "reviews.parquet")
    workspace = Workspace(root)
    with stage_output(workspace.prior_review, stage="review", params={}, inputs={}) as output:
        of_a_prior = PriorReview(
            review_id="2/1", prior_id="mine/widget/default", text_sha256="a" * 64, reviewer="Priya@localhost",
            reviewed_at="2026-11-01T00:00:00+00:00", seconds=1.0, verdict="accepted", before="", after="", reason="",
            comment="", result="[]", problems=[],
        )  # fmt: skip
        PRIOR_REVIEW.write(PRIOR_REVIEW.frame([of_a_prior]), output.path / workspace.prior_reviews.name)
    return secrets.build_pattern(root, _params())


def _params() -> Params:
    base = small_corpus.params()
    experts = base.review.model_copy(update={"annotators": ["Annotator@localhost"]})
    mine = PullSet(benchmark="folder", source="parts of ours/2026", role="train")
    return base.model_copy(
        update={
            "pull": {"mine": mine},
            "review": experts,
            "teacher": base.teacher.model_copy(update={"api_key_env": "OUR_DOOR"}),
        }
    )


def kind_of(text: str, expression: str) -> str:
    """What a refusal says it holds; empty where there is none."""
    try:
        secrets.check_text(text, "here", expression)
    except IndusCotError as error:
        assert text not in str(error) or len(text) < 12
        return str(error).partition("holds ")[2].partition(";")[0]
    return ""


@given(
    AROUND,
    AROUND,
    st.sampled_from(SECRETS + PATHS),
    st.sampled_from([" ", "\n", "\u00a0", "—", "令", "\x0b", '"', "(", "{", ""]),
)
def test_secret_is_found_in_any_text(expression: str, before: str, after: str, what: str, beside: str) -> None:
    # Behind a letter or a digit of ASCII, no path begins: crown/root/stem.
    beside = beside or (
        "" if not before or not (before[-1].isascii() and (before[-1].isalnum() or before[-1] in "_/-.")) else " "
    )
    text = f"{before}{beside}{what} {after}"
    for written in (text, json.dumps({"content": [text]}), json.dumps([text], ensure_ascii=False)):
        assert kind_of(written, expression), written


@pytest.mark.parametrize("before", "?!*&+)]}~@#%^$\\\x00")
def test_home_folder_after_any_character(expression: str, before: str) -> None:
    for text in (f"{before}~/parts", json.dumps([f"{before}~/parts"])):
        assert kind_of(text, expression) == "a local path"


@pytest.mark.parametrize("what", ANYWHERE)
@pytest.mark.parametrize(
    "before", ["", "see ", "see\u00a0", "—", "“", "(", '"', "=", "{", "<think>", "\n", "`", "[", "：", "path:"]
)
def test_path_with_any_root(expression: str, before: str, what: str) -> None:
    assert kind_of(before + what, expression) == "a local path"


@pytest.mark.parametrize("text", LAWFUL)
def test_lawful_texts_pass(expression: str, text: str) -> None:
    assert not kind_of(text, expression) and not kind_of(json.dumps([text]), expression)


def test_names_in_any_spelling(expression: str) -> None:
    for text in ("says jane.doe", "JANE.DOE's", "（Jane.Doe）", "\nJane.Doe", "Ann thinks", "by Ann."):
        assert kind_of(text, expression) == "a reviewer's name", text
        assert kind_of(json.dumps([text]), expression) == "a reviewer's name", text
    for text in ("by priya@localhost", "Annotator@localhost says"):
        assert kind_of(text, expression) == "a reviewer's name", text
    for text in ("an annual banner", "Annex", "Mary-Jane.Doerr"):
        assert not kind_of(text, expression), text


def test_values_of_this_machine_have_bounds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/root")
    monkeypatch.setenv("OUR_DOOR", 'open"sesame')
    monkeypatch.setattr(Path, "resolve", lambda self, strict=False: Path("/indus-cot") / self.name)
    monkeypatch.setattr(Path, "absolute", lambda self: Path("/indus-cot"))
    expression = secrets.build_pattern(tmp_path / "nowhere", _params())
    assert kind_of('it says open"sesame', expression) == "a secret"
    assert kind_of("in parts of ours/2026/1.png", expression) == "a path of this machine or a source of params.yaml"
    assert kind_of("clone it to /root, then go on", expression)
    for text in ('load_dataset("you/indus-cot", "sft")', "the crown/root", "/rooted", "our parts of ours/2026x"):
        assert not kind_of(text, expression), text


def test_match_of_one_engine_is_refused(expression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import re

    monkeypatch.setattr(secrets, "_compile", lambda expression: re.compile("(?!)"))
    assert kind_of("see /home/bob/x.png", expression) == "something of the kind"
