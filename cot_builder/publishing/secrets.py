"""Detection of texts that must not be published: secrets, local paths, reviewer names.

RE2 and Python's `re` use one expression, on texts in their JSON form. It has no ``\\b``, ``\\s``, ``\\w`` and no
look-around, because RE2 supports these for ASCII only or not at all.
"""

import json
import os
import re
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from cot_builder.corpus.prior_reviews import read_prior_reviews
from cot_builder.corpus.reviews import read_reviews
from cot_builder.params import Params
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError

_ESCAPED = r"\\[nrtfb]|\\u[0-9a-fA-F]{4}"
"""A character that JSON escapes with letters and digits, which belong to no word."""
_BEGIN = rf"(?:^|[^A-Za-z0-9]|{_ESCAPED})"
_END = r"(?:$|[^A-Za-z0-9])"
_NOT_ASCII = r"[^\x00-\x7f]"
_PUNCTUATION = "[\u0080-\u00bf\u2000-\u206f\u3000-\u303f\uff00-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]"
_ROOTS = (
    "home|Users|root|tmp|mnt|media|opt|srv|var|private|work|workspace|data|scratch|gpfs|lustre|Volumes|usr|etc|nfs"
    "|proc|run|dev|lib|bin|Library|Applications|System"
)
"""Folders that begin a path; not after an ASCII letter."""
_SECRET = "|".join(
    (
        r"hf_[A-Za-z0-9]{16,}",
        rf"{_BEGIN}sk-[A-Za-z0-9_-]{{20,}}",
        r"A[KS]IA[0-9A-Z]{16}",
        r"gh[pousr]_[A-Za-z0-9]{20,}",
        r"github_pat_[A-Za-z0-9_]{20,}",
        r"glpat-[A-Za-z0-9_-]{16,}",
        r"xox[a-z]-[A-Za-z0-9-]{10,}",
        r"AIza[A-Za-z0-9_-]{30,}",
        r"eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.",
        r"Bearer +[A-Za-z0-9._~+/=-]{16,}",
        r"(?i:bearer) +[A-Za-z0-9._~+/=-]{20,}",
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
        r"://[^/ \"\\:@]+:[^/ \"\\:@]+@",
    )
)
# A path with any other root has two parts, begins with a letter (unlike 1/2), and follows a space, a quote or similar.
# After a letter it would be "and/or"; after a dot or a bracket it continues a word.
_PATH = "|".join(
    (
        r"(?i:file)://",
        rf"(?:^|[^A-Za-z0-9_/]|{_ESCAPED})/(?:{_ROOTS})/(?:[A-Za-z0-9_.~+@-]|{_NOT_ASCII})",
        rf"(?:^|[ \"'(=:\[{{<>|,;`!?*&]|{_PUNCTUATION}|{_ESCAPED})/(?:[A-Za-z_.]|{_NOT_ASCII})[^ /\"'<>|\\]*"
        rf"/(?:[A-Za-z0-9_.]|{_NOT_ASCII})",
        rf"{_BEGIN}[A-Za-z]:\\\\+(?:[A-Za-z0-9_.$~-]|{_NOT_ASCII})",
        rf"\\\\\\\\[A-Za-z0-9][A-Za-z0-9_.-]*\\\\(?:[A-Za-z0-9_$]|{_NOT_ASCII})",
        rf"(?:^|[^A-Za-z0-9_./-]|{_ESCAPED})~/(?:[A-Za-z0-9_.]|{_NOT_ASCII})",
    )
)
_EMAIL = rf"[A-Za-z0-9_.+-]+@(?:[A-Za-z0-9-]|{_NOT_ASCII})+\.[A-Za-z]{{2,}}"
KINDS = {
    "secret": "a secret",
    "path": "a local path",
    "email": "an e-mail address",
    "reviewer": "a reviewer's name",
    "machine": "a path of this machine or a source of params.yaml",
}
"""Description of each group of the expression."""
SECRET_VARIABLES = re.compile(r"TOKEN|SECRET|PASSWORD|API_KEY|ACCESS_KEY", re.IGNORECASE)
MIN_VALUE_LENGTH = 8
"""Minimum length of an environment value to search for; shorter ones occur in any text."""
MAX_CASE_SENSITIVE = 3
"""Names up to this length are matched case-sensitively; longer ones ignore case."""


def build_pattern(root: Path = Path(), params: Params | None = None) -> str:
    """Build the expression of everything that must not be published, including local values and reviewer names.

    Args:
        root: The project with its reviews.
        params: Parameters whose keys and sources are included.
    """
    people = {row.reviewer for row in read_reviews(Workspace(root))}
    people |= {row.reviewer for row in read_prior_reviews(Workspace(root))}
    variables = {name for name in os.environ if SECRET_VARIABLES.search(name)}
    places = {str(root.resolve()), str(root.absolute()), str(Path.home())}
    if params:
        people |= set(params.review.annotators)
        variables |= {params.teacher.api_key_env, params.evaluate.api_key_env}
        places |= {place for item in params.pull.values() for place in _list_spellings(item.source, root)}
    values = {value for name in variables if len(value := os.environ.get(name, "")) >= MIN_VALUE_LENGTH}
    secrets = [_SECRET, *map(_escape, sorted(values | set(_read_saved_token())))]
    found = {"secret": "|".join(secrets), "path": _PATH, "email": _EMAIL}
    if people:
        found["reviewer"] = "|".join(f"{_BEGIN}{_name_pattern(person)}{_END}" for person in sorted(people))
    own = [rf"(?:^|[^A-Za-z0-9_./-]|{_ESCAPED}){_escape(place)}(?:$|[^A-Za-z0-9_-])" for place in sorted(places)
           if len(place) > 3]  # fmt: skip
    if own:
        found["machine"] = "|".join(own)
    # The order decides which kind a refusal names first.
    return "|".join(f"(?P<{kind}>{found[kind]})" for kind in ("secret", "reviewer", "email", "machine", "path")
                    if kind in found)  # fmt: skip


def contains_match(texts: pa.Array, expression: str) -> bool:
    """Whether the expression matches in any of the texts, each in JSON form."""
    return bool(pc.any(pc.match_substring_regex(texts, expression)).as_py())


def check_text(text: str, where: str, expression: str) -> None:
    """Refuse a text, JSON or not, in which the expression matches.

    Raises:
        IndusCotError: names the position and the kind of the match, never the match itself.
    """
    written = to_json_text(text)
    if not contains_match(pa.array([written], pa.string()), expression):
        return
    found = _compile(expression).search(written)
    kind = KINDS[found.lastgroup or ""] if found else "something of the kind"
    start = found.start() if found else 0
    at = 1 + written.count("\n", 0, start) + (0 if written is text else written.count("\\n", 0, start))
    raise IndusCotError(
        f"{where}, line {at}, character {start}: holds {kind}; nothing was published. Remove it at its "
        "source (reject a draft in review), then run again"
    )


def to_json_text(text: str) -> str:
    """The JSON form of a text; a text that is JSON is returned as it is."""
    try:
        json.loads(text)
    except ValueError:
        return json.dumps(text, ensure_ascii=False)[1:-1]
    return text


def _list_spellings(source: str | list[str], root: Path) -> set[str]:
    """Spellings of a set's source that must not be published; public addresses and plain words are not among them."""
    found = set()
    for place in [source] if isinstance(source, str) else source:
        scheme, mark, rest = place.partition("://")
        if mark:
            found |= {place} if scheme not in ("http", "https", "hf") or "?" in rest or "@" in rest else set()
        elif "/" in place or "\\" in place:
            found |= {place, str(Path(place).expanduser()), str((root / Path(place).expanduser()).resolve())}
    return found


def _escape(value: str) -> str:
    return re.escape(json.dumps(value, ensure_ascii=False)[1:-1])


def _name_pattern(person: str) -> str:
    return _escape(person) if len(person) <= MAX_CASE_SENSITIVE else f"(?i:{_escape(person)})"


@cache
def _compile(expression: str) -> re.Pattern[str]:
    return re.compile(expression)


def _read_saved_token() -> list[str]:
    from huggingface_hub import get_token

    token = get_token()
    return [token] if token else []
