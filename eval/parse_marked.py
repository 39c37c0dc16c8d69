"""Machine-readable answers within a text: tags, boxes of LaTeX, JSON (rule 3 of :mod:`eval.parse`)."""

import re
from collections.abc import Mapping
from typing import Any

from eval.parse_conclusions import conclude
from eval.parse_json import find_objects, list_entries
from eval.parse_places import find_leaf
from eval.parse_text import NO_CONCLUSION, Conclusion, to_plain
from eval.parse_words import OPPOSITE, Answer


def find_marked(text: str, options: Mapping[str, Answer]) -> Conclusion:
    """Find the last machine-readable answer (rule 3)."""
    found: list[tuple[int, Conclusion]] = [
        (match.end(), _read_marked_text(match[1] or match[2] or "", options))
        for match in re.finditer(r"<answer>(.*?)(?:</answer>|$)|\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}", text, re.DOTALL)
    ]
    found += [
        (end, answer)
        for end, value in find_objects(text)
        if (answer := _read_json_answer(value, options)) != NO_CONCLUSION
    ]
    return max(found, key=lambda item: item[0])[1] if found else NO_CONCLUSION


def _read_marked_text(text: str, options: Mapping[str, Answer]) -> Conclusion:
    """Parse a short text that is marked as the answer; None if it holds no conclusion."""
    said = conclude("answer: " + to_plain(text), options)
    return None if said == NO_CONCLUSION else said


_ANSWER_KEY = re.compile(
    r"(?:final|the)?_?(?:answer|verdict|conclusion|decision|judge?ment|result|prediction|label|status|classification|class)"
    r"|antwort|urteil|ergebnis|réponse|respuesta|veredicto|risposta|resposta|ответ|答案|结论|判断|结果|回答|結論|判定|답변|결론|판정"
)
_DEFECT_KEY = re.compile(
    r"(?:is|has|any)?_?(?:defect(?:s|ive)?|anomal(?:y|ies|ous)|abnormal|damaged?|faulty)_?(?:detected|present|found|exists?)?"
    r"|defekt|fehler|défaut|defecto|difetto|defeito|дефект|缺陷|异常|異常|欠陥|결함|불량"
)
_NORMAL_KEY = re.compile(r"(?:is_?)?(?:normal|ok|defect_?free|good)|正常|정상")


def _read_json_answer(value: Any, options: Mapping[str, Answer]) -> Conclusion:
    found = list(list_entries(value))
    for key, meaning in ((_ANSWER_KEY, "Yes"), (_DEFECT_KEY, "Yes"), (_NORMAL_KEY, "No")):
        for name, entry in found:
            if key.fullmatch(name.strip().casefold().replace(" ", "_").replace("-", "_")):
                said = _read_json_entry(entry, key is _ANSWER_KEY, options)
                if said != NO_CONCLUSION:
                    return OPPOSITE[said] if meaning == "No" and said is not None else said
    return NO_CONCLUSION


def _read_json_entry(entry: Any, is_answer: bool, options: Mapping[str, Answer]) -> Conclusion:
    if isinstance(entry, bool) or (isinstance(entry, int) and entry in (0, 1)):
        return "Yes" if entry else "No"
    if isinstance(entry, list) and not is_answer:
        return "Yes" if entry else "No"
    if not isinstance(entry, str):
        return NO_CONCLUSION
    said = _read_marked_text(entry, options)
    if said is None and not is_answer:
        words = to_plain(entry).strip(" .")
        if words in ("", "none", "null", "n/a", "nothing"):
            return "No"
        # {"defect": "scratch"}
        return "Yes" if find_leaf(entry) else None
    return said
