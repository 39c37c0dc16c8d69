"""Category names in words, for texts that people and models read."""

import re


def spell_out(category: str) -> str:
    """Write a category in words, with its number: ``ball_screw`` is 'ball screw', ``Woven_001`` is 'woven 001'."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", category.replace("_", " ")).strip().lower()


def category_name(category: str) -> str:
    """Write a category in words, without a trailing number: ``Woven_001`` is 'woven', ``pcb1`` is 'pcb'.

    A number is removed only after a word, where it counts variants: ``2024-05-12`` is kept unchanged.
    """
    return re.sub(r"(?<=[^\W\d_])[\s-]*\d+$", "", spell_out(category)) or category


_AN = re.compile(
    r"8|1[18](?!\d)|hour|honest|heir"
    # Abbreviations that are spelled letter by letter: an x ring, an lcd.
    r"|[fhlmnrsx][^aeiouy\W_]*(?![^\W_])|[aeio](?![^\W_])"
    # Words that begin with a vowel sound: an eraser and an urn, but a usb, a u block, a unit, a one-way valve.
    r"|(?!eu|ewe|one(?:\b|_)|once|u(?:[^a-z]|$|sb|s[aeiu]|ni(?!n|m[ip]|d)|t[eio]|r[aeio]|b[ei]|f[eo]|k|v\b))[aeiou]"
)


def choose_article(name: str) -> str:
    """Return the article of ``name``, ``a`` or ``an``: an eraser, a usb, a u block, an lcd."""
    return "an" if _AN.match(name.lower()) else "a"
