"""A scripted teacher that fills in every form by rules: equal requests get equal answers."""

import hashlib
import json
import re
from typing import Any

WORDS = [
    *("calm", "broad", "narrow", "plain", "rounded", "straight", "gentle", "crisp", "even", "uneven", "long", "short"),
    *("upper", "lower", "nearer", "farther", "outer", "inner", "central", "lateral", "slanted", "upright", "level"),
    *("steep", "shallow", "flat", "smooth", "coarse", "fine", "dense", "sparse", "light"),
]


def answer_form(body: dict[str, Any]) -> dict[str, Any]:
    """Fill in the form that ``response_format`` asks for, from the text of the request."""
    form = body["response_format"]["json_schema"]["name"]
    return globals()[f"_{form}"](_first_text(body), _variety(body))


def _first_text(body: dict[str, Any]) -> str:
    parts = next(message for message in body["messages"] if message["role"] == "user")["content"]
    return next(part["text"] for part in parts if part["type"] == "text")


def _variety(body: dict[str, Any]) -> str:
    """Return words that differ between samples, so that no draft repeats another."""
    digest = hashlib.sha256(json.dumps(body["messages"][1], sort_keys=True).encode()).digest()
    return " ".join(WORDS[byte % len(WORDS)] for byte in digest[:6])


def parse_finding(text: str) -> tuple[str | None, list[list[int]]]:
    """Parse the defect type (None for a sound part) and the boxes from the private prompt."""
    kind = re.search(r"There is a defect of type (\w+)", text)
    if not kind:
        return None, []
    sentence = text[kind.start() : text.index("\n", kind.start())]
    boxes = re.findall(r"\[\d+, \d+, \d+, \d+\]", sentence)
    return kind.group(1), [json.loads(box) for box in boxes]


def _call(**arguments: Any) -> dict[str, Any]:
    names = ("tool", "region", "operator", "points", "mm_per_px", "category", "view", "why")
    return {name: arguments.get(name) for name in names}


def _description(text: str, variety: str) -> dict[str, Any]:
    _, boxes = parse_finding(text)
    region = boxes[0] if boxes else None
    calls = [_call(tool="crop", region=region, why="the place is small")] if region else []
    return {"seen": f"A part in {variety} light.", "doubts": ["the tone of one place"], "calls": calls}


def _composition(text: str, variety: str) -> dict[str, Any]:
    kind, boxes = parse_finding(text)
    start = f"The part lies in {variety} light and its outline is closed all around."
    if kind is None:
        end = f"{start} I go over it from edge to edge and find it whole, so there is no defect."
        return {"thoughts": [end], "answer": "No", "boxes": [], "type": None}
    thoughts = [
        f"{start} One place differs in tone, and at this size it is too small to judge, so I crop it.",
        f"The crop shows the {variety} place with a rim of its own, which no sound surface has: a defect.",
    ]
    return {
        "thoughts": thoughts[-1 if "No tool was called" in text else 0 :],
        "answer": "Yes",
        "boxes": boxes,
        "type": kind,
    }


def _audit(text: str, variety: str) -> dict[str, Any]:
    return {"statements": [{"thought": 1, "quote": "its outline is closed", "fault": "none"}]}


def _scores(text: str, variety: str) -> dict[str, Any]:
    return {"grounding": 4, "reasoning": 4, "tools": 3 + len(variety) % 3, "wording": 4, "remark": "none"}


def _blind(text: str, variety: str) -> dict[str, Any]:
    return {"reason": variety, "answer": "Yes" if len(variety) % 2 else "No", "confidence": 60}


def _priortext(text: str, variety: str) -> dict[str, Any]:
    return {"text": f"A sound one has a closed outline and an even surface. It is {variety}. " * 4}
