"""Names of categories as people say and write them."""

import re


def spell_out(category: str) -> str:
    """A category in words, with its number: ``ball_screw`` is 'ball screw', ``Woven_001`` 'woven 001'."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", category.replace("_", " ")).strip().lower()


def category_name(category: str) -> str:
    """A category as people say it: ``ball_screw`` is 'ball screw', ``Woven_001`` 'woven', ``pcb1`` 'pcb'.

    Only a number that follows a word is one of several of its kind: ``2024-05-12`` keeps all of it.
    """
    return re.sub(r"(?<=[^\W\d_])[\s-]*\d+$", "", spell_out(category)) or category


_AN = re.compile(
    r"8|1[18](?!\d)|hour|honest|heir"
    # Spelled out, letter by letter: an x ring, an lcd.
    r"|[fhlmnrsx][^aeiouy\W_]*(?![^\W_])|[aeio](?![^\W_])"
    # Vowels as they sound: an eraser and an urn, but a usb, a u block, a unit, a one-way valve.
    r"|(?!eu|ewe|one(?:\b|_)|once|u(?:[^a-z]|$|sb|s[aeiu]|ni(?!n|m[ip]|d)|t[eio]|r[aeio]|b[ei]|f[eo]|k|v\b))[aeiou]"
)


def choose_article(name: str) -> str:
    """``a`` or ``an``, whichever ``name`` takes: an eraser, a usb, a u block, an lcd."""
    return "an" if _AN.match(name.lower()) else "a"
