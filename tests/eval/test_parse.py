"""Model answers are parsed as a careful reader would, and no text breaks the parser."""

import re
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.parse import parse_agent, parse_by_rules

ANSWERS: list[tuple[str, str | None]] = yaml.safe_load((Path(__file__).parent / "answers.yaml").read_text("utf-8"))
WORDS = [
    "the",
    "part",
    "image",
    "surface",
    "shows",
    "a",
    "metal",
    "bracket",
    "on",
    "dark",
    "background",
    "light",
    "is",
    "at",
    "edge",
    "of",
    "and",
    "it",
    "with",
    "two",
    "round",
    "screw",
    "object",
    "grey",
    "seen",
    "from",
    "above",
    "bright",
    "12",
    "3.5",
    "I",
    "look",
    "at",
    "this",
    "picture",
    "das",
    "Teil",
    "liegt",
    "la",
    "pieza",
    "sobre",
    "金属",
    "零件",
    "部品",
    "부품",
    "деталь",
]
ANYTHING = st.text() | st.lists(st.sampled_from([
    "yes", "no", "not", "defect", "normal", "{", "}", '{"answer":', "[", "]", "<answer>", "</answer>", "\\boxed{", "<think>",
    "</think>", ":", ",", ".", "?", "\n", "answer:", "if", "may", "无", "缺陷", "ない", "없", "\ud800", "\x00",
])).map(" ".join)  # fmt: skip
YES = "<think>A line.</think><location>[[1, 2, 30, 40]]</location><type>scratch</type><answer>Yes</answer>"


@pytest.mark.parametrize(("text", "answer"), ANSWERS, ids=[text[:40] for text, _ in ANSWERS])
def test_answers_are_parsed(text: str, answer: str | None) -> None:
    found = parse_by_rules(text)
    assert found.answer == answer
    assert found.parse == ("unparsed" if answer is None else "rules")
    assert found.fault


# What is machine-readable comes before any label, and a sentence of the battery may have a label of its own.
FREE = [text for text, _ in ANSWERS if not re.search(r"[{<\\]", text)]
UNLABELLED = [
    text
    for text in FREE
    if re.fullmatch(
        r"(?!.*\b(?:so|somit|therefore|conclusion|answer)\b)(?:No|There|The part|This|Nothing|It is|No se|Não|Non|Das) [\w ,'–—-]+[.!]",
        text,
    )
]
DASHES = ["–", "—", "―", "−", "--", "---", "-"]
NO_LINES = [
    "Answer: {}",
    "**Final answer:** {}.",
    "Verdict – {}",
    "Antwort: {}!",
    "答案：{}",
    "| Answer | {} |",
    "Answer → {} ✅",
]
LANGUAGES = {
    "english": ("No scratch is there", "It is not a shadow", "the part is intact", "the part is damaged", "because"),
    "german": ("Es gibt keine Kratzer", "Das ist kein Schatten", "das Teil ist intakt", "das Teil ist beschädigt", "weil"),
    "french": ("Aucune rayure n'est là", "Ce n'est pas une ombre", "la pièce est intacte", "la pièce est endommagée", "car"),
    "spanish": ("No hay rasguños", "No es una sombra", "la pieza está intacta", "la pieza está dañada", "porque"),
    "italian": ("Nessun graffio", "Non è un'ombra", "il pezzo è intatto", "il pezzo è danneggiato", "perché"),
    "portuguese": ("Não há riscos", "Não é uma sombra", "a peça está intacta", "a peça está danificada", "porque"),
    "russian": ("Нет царапин", "Это не тень", "деталь исправна", "деталь повреждена", "потому что"),
    "chinese": ("没有划痕", "不是反光", "零件完好", "零件有缺陷", "因为"),
    "japanese": ("傷はない", "影ではない", "部品は正常です", "部品に欠陥があります", "なぜなら"),
    "korean": ("균열은 없음", "그림자가 아님", "부품은 정상입니다", "부품에 결함이 있습니다", "왜냐하면"),
}  # fmt: skip
KINDS = st.lists(
    st.sampled_from(["scratches", "dents", "cracks", "stains", "defects", "anomalies"]), min_size=1, max_size=6
)


@given(st.sampled_from(FREE), st.sampled_from(NO_LINES), st.sampled_from(["Yes", "No"]))
@settings(max_examples=150, deadline=None)
def test_final_labelled_answer_wins(text: str, line: str, answer: str) -> None:
    assert parse_by_rules(f"{text}\n\n{line.format(answer)}").answer == answer


@given(
    st.sampled_from(UNLABELLED),
    st.sampled_from(
        ["Answer: {}\n\n{}", "Answer: {} – {}", "Answer: {} ({})", "<answer>{} — {}</answer>", "Verdict: {}, {}"]
    ),
    st.sampled_from(["Yes", "No"]),
)
@settings(max_examples=150, deadline=None)
def test_explanation_keeps_labelled_answer(text: str, form: str, answer: str) -> None:
    assert parse_by_rules(form.format(answer, text)).answer == answer


@given(st.sampled_from([text for text in FREE if re.search(r" (?:[–—]|--|-) ", text)]), st.sampled_from(DASHES))
@settings(max_examples=100, deadline=None)
def test_all_dashes_are_equal(text: str, dash: str) -> None:
    assert parse_by_rules(re.sub(r"(?<= )(?:[–—]|--|-)(?= )", dash, text)).answer == dict(ANSWERS)[text]


@pytest.mark.parametrize("language", LANGUAGES)
def test_negation_ends_with_its_clause(language: str) -> None:
    nothing, no_shadow, sound, defective, because = LANGUAGES[language]
    joints = [". {}", "; {}", ": {}", " ({})", " [{}]", " | {}", " → {}", " -> {}", f" {because} {{}}", ", {}"]
    for joint in joints + [f" {dash} {{}}" for dash in DASHES]:
        for before in (nothing, f"({nothing})", nothing.lower()):
            assert parse_by_rules(before + joint.format(sound)).answer == "No", before + joint
        assert parse_by_rules(no_shadow + joint.format(defective)).answer == "Yes", joint
        # In the reverse order nothing is inverted either.
        assert parse_by_rules(f"{defective}{joint.format(no_shadow)}").answer == "Yes", joint


@given(
    KINDS,
    st.sampled_from(["No {}.", "No visible damage ({}).", "No flaws – {} – are seen.", "There are no (visible) {}."]),
)
@settings(max_examples=100, deadline=None)
def test_negation_covers_enumeration(kinds: list[str], form: str) -> None:
    for last in (" or ", " and ", ", or ", "/", ", "):
        assert parse_by_rules(form.format(last.join([", ".join(kinds), "defects"]))).answer == "No"


@given(ANYTHING)
@settings(max_examples=200, deadline=None)
def test_parser_never_raises(text: str) -> None:
    found = parse_by_rules(text, {"A": "Yes", "B": "No"})
    assert (found.answer is None) == (found.parse == "unparsed")
    assert found.answer == "Yes" or not (found.boxes or found.defect_type)


@given(st.lists(st.sampled_from([*WORDS, ".", ",", "!", "\n", "(", ")", "**"]), max_size=40).map(" ".join))
@settings(max_examples=200, deadline=None)
def test_no_conclusion_is_unparsed(text: str) -> None:
    assert parse_by_rules(text).answer is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("A", "Yes"),
        ("B.", "No"),
        ("(A)", "Yes"),
        ("**B**", "No"),
        ("Option A", "Yes"),
        ("The answer is B.", "No"),
        ("Answer: (a)", "Yes"),
        ("A. The part is flat.", "Yes"),
        ("A metal part lies on a table.", None),
        ("C", None),
    ],
)
def test_option_letters(text: str, answer: str | None) -> None:
    assert parse_by_rules(text, {"A": "Yes", "B": "No"}).answer == answer
    assert parse_by_rules(text).answer is None


@pytest.mark.parametrize(
    ("text", "boxes", "defect_type"),
    [
        ("Yes. The defect lies at [100, 200, 300, 400].", [(100, 200, 300, 400)], None),
        ("Yes, at (0.1, 0.2, 0.3, 0.45).\nType: scratch", [(100, 200, 300, 450)], "scratch"),
        ('{"answer": "Yes", "bbox_2d": [1, 2, 3, 4], "type": "Foreign matter"}', [(1, 2, 3, 4)], "foreign_matter"),
        ("<location>[[1, 2, 3, 4], [5, 6, 7, 8]]</location><type>pits</type><answer>Yes</answer>",
         [(1, 2, 3, 4), (5, 6, 7, 8)], "pit"),
        ("Yes: [1500, 20, 1700, 40] and [300, 200, 100, 400] in pixels, a dog.", [], None),
        ("No. I looked at [100, 200, 300, 400].\nType: scratch", [], None),
    ],
)  # fmt: skip
def test_boxes_and_type_need_yes(text: str, boxes: list[tuple[int, ...]], defect_type: str | None) -> None:
    found = parse_by_rules(text)
    assert (found.boxes, found.defect_type) == (boxes, defect_type)


def test_grammar_has_priority() -> None:
    assert parse_by_rules(YES) == ("Yes", [(1, 2, 30, 40)], "scratch", "strict", "")


def test_agent_reading() -> None:
    said = [{"role": "assistant", "content": YES}]
    assert parse_agent(said) == ("Yes", [(1, 2, 30, 40)], "scratch", "strict", "")
    deviating = [{"role": "assistant", "content": YES.replace("><", ">\n<")}]
    assert parse_agent(deviating)[:4] == ("Yes", [(1, 2, 30, 40)], "scratch", "tolerant")
    assert parse_agent(deviating, exact=True).answer is None and parse_agent(said, exact=True).answer == "Yes"
    for text in ("Yes", "<answer>Yes</answer>", YES + " No.", YES.replace("scratch", "dragon")):
        found = parse_agent([{"role": "assistant", "content": text}])
        assert found[:4] == (None, [], None, "unparsed")
        assert found.fault
    # A tool call is not a verdict.
    assert parse_agent([]).parse == "unparsed"


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "\n" * 40_000,
        "不" * 40_000,
        "{" * 50_000,
        '{"a":' * 50_000,
        "no " * 20_000,
        "a, " * 20_000,
        "\\boxed{<think>" * 5_000,
    ],
)
def test_long_text_is_parsed(text: str) -> None:
    assert parse_by_rules(text).answer is None
    assert parse_by_rules(f"{text}</think>\nThe part is defective.").answer == "Yes"


@pytest.mark.parametrize("piece", ["no – ", "没有缺陷", "not intact (", "no defect, ", "may be: "])
def test_parsing_time_is_linear(piece: str) -> None:
    def seconds(characters: int) -> float:
        start = time.process_time()
        parse_by_rules(piece * (characters // len(piece)))
        return time.process_time() - start

    seconds(100)
    assert seconds(8_000) < 10 * seconds(2_000) + 0.1
