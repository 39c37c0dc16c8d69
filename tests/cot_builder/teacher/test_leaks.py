"""Phrases that reveal supervision are found; sentences of inspectors are not."""

from pathlib import Path

import pytest
import yaml

from cot_builder.teacher.leaks import find_leaks

ENGLISH, CHINESE = (
    yaml.safe_load((Path(__file__).parent / f"leaks_{language}.yaml").read_text("utf-8"))
    for language in ("english", "chinese")
)


@pytest.mark.parametrize("text", ENGLISH["leaks"] + CHINESE["leaks"])
def test_leaks_are_found(text):
    found = find_leaks(text)
    assert found
    assert all(phrase in text for phrase in found)


@pytest.mark.parametrize("text", ENGLISH["innocent"] + CHINESE["innocent"])
def test_innocent_sentences_have_no_leak(text):
    assert find_leaks(text) == []


@pytest.mark.parametrize(
    "text, phrases",
    [
        (
            "The printed label is straight and the solder mask is whole. The annotated region is darker, "
            "with a hint of rust, as shown in the crop.",
            ["annotated"],
        ),
        (
            "The rim is even. The file name says bad, and I was told so. The thread is worn.",
            ["file name", "I was told"],
        ),
        ("The rim is bad, as the ground-truth label tells me.", ["ground-truth label"]),
        ("标签贴歪，阻焊层完整。根据标注，左侧有划痕。提示灯亮。", ["标注"]),
        ("The label is torn. 真值显示这里有划痕。 The rim is even.", ["真值"]),
        ("边缘平直。According to the ground truth, 这里有划痕。", ["ground truth"]),
    ],
)
def test_only_leaks_of_paragraph_are_returned(text, phrases):
    assert find_leaks(text) == phrases


@pytest.mark.parametrize(
    "text",
    [
        "GROUND TRUTH",
        "Ground-Truth",
        "ground_truth",
        "ground  truth",
        "ground\ntruth",
        "ground-\ntruth",
        "ground\u00a0truth",
        "ground\u2011truth",
        "ｇｒｏｕｎｄ　ｔｒｕｔｈ",
        "gro\u200bund tr\u00aduth",
    ],
)
def test_leak_found_despite_case_width_and_spacing(text):
    assert find_leaks(f"The {text} is a dent.") == [text]


@pytest.mark.parametrize(
    "text",
    [
        "The **ground** truth is a dent.",
        "The “ground” truth is a dent.",
        "I've been told of it.",
        "I’ve been told of it.",
        "THE LABEL SAYS IT IS 'ANOMALOUS'.",
        "The bounding-\nbox\nprovided covers it.",
        "The bounding_box provided covers it.",
        "As\nthe label\n says, it is bad.",
        "根 据 标\n签，该件异常。",
        "根据“标签”，该件异常。",
        "根据标签,该件异常.",
        "标签：异常！",
        "标签:异常!",
        "已 知\n该样本异常。",
        "ＧＴ框在左侧。",
        "標籤顯示該樣本異常。",
    ],
)
def test_leak_found_despite_punctuation(text):
    assert find_leaks(text)


@pytest.mark.parametrize(
    "text",
    [
        "The label is straight. It says nothing that is anomalous.",
        "The cap is marked. The region is plain.",
        "标签贴正。显示屏无异常。",
        "标签贴正；异常在瓶盖。",
    ],
)
def test_leak_does_not_span_sentences(text):
    assert find_leaks(text) == []


def test_empty_text_has_no_leak():
    assert find_leaks("") == find_leaks(" \n-") == []
