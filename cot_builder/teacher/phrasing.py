"""Phrases of the offline teacher. Measurements select each clause; chance only picks among synonyms."""

from random import Random

from cot_builder.inspection.appearance import Scene, Spot
from cot_builder.inspection.names import choose_article
from schemas.geometry import Box, area, describe_position

NOUNS: dict[str, tuple[str, ...]] = {
    "scratch": ("a scratch", "a score mark", "a scratched line"),
    "abrasion": ("abrasion", "a scuffed area", "a rubbed patch"),
    "dent": ("a dent", "a pressed-in spot", "a shallow impression"),
    "pit": ("a pit", "a small cavity", "a pitted spot"),
    "crack": ("a crack", "a fracture line", "a split in the material"),
    "hole": ("a hole", "an opening in the surface", "a perforation"),
    "cut": ("a cut", "a severed spot", "a slit"),
    "discolouration": ("discolouration", "an off-colour area", "a colour fault"),
    "corrosion": ("corrosion", "rust", "a corroded area"),
    "print_error": ("a print error", "a faulty imprint", "misprinting"),
    "texture_irregularity": ("a texture irregularity", "a break in the texture", "a disturbed patch of the pattern"),
    "bubble": ("a bubble", "a blister", "trapped gas"),
    "foreign_matter": ("foreign matter", "a foreign body", "something that does not belong to the part"),
    "stain": ("a stain", "a smear of dirt", "soiling"),
    "leak": ("a leak", "escaped content", "leaked material"),
    "broken": ("breakage", "a broken-off piece", "chipped material"),
    "deformation": ("deformation", "a bent or squeezed section", "a loss of shape"),
    "missing_part": ("a missing part", "an empty place where a feature belongs", "an absent component"),
    "extra_part": ("an extra part", "a surplus component", "one feature too many"),
    "misplaced": ("a misplaced component", "a component out of its place", "misalignment"),
    "wrong_part": ("a wrong part", "a mismatched component", "a part of the wrong kind"),
    "stuck_together": ("pieces stuck together", "parts clinging to each other", "fused pieces"),
    "unspecified": ("damage of no single kind", "mixed damage", "irregular damage"),
}
LINEAR = {"scratch", "crack", "cut", "texture_irregularity", "foreign_matter"}
"""Types for which an elongated shape is evidence."""
COMPACT = {
    "pit",
    "hole",
    "dent",
    "discolouration",
    "stain",
    "bubble",
    "abrasion",
    "corrosion",
    "foreign_matter",
    "leak",
}
SHAPE_TYPES = {"deformation", "missing_part", "extra_part", "misplaced", "wrong_part", "broken", "stuck_together"}
"""Types that show in form or number of parts, not in tone."""
COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")


def pick(rng: Random, *options: str) -> str:
    """Choose one of the options."""
    return rng.choice(options)


def sentence(*parts: str) -> str:
    """Join the non-empty parts into one capitalised sentence with a full stop."""
    text = (
        " ".join(part for part in parts if part)
        .strip()
        .rstrip(".")
        .replace("  ", " ")
        .replace(" ,", ",")
        .replace(" ;", ";")
    )
    return text[:1].upper() + text[1:] + "."


def scene(rng: Random, name: str, look: Scene) -> str:
    """Describe the whole image."""
    ground = ""
    if look.fills_frame:
        ground = pick(rng, "filling the whole frame", "seen close, edge to edge", "with no background around it")
    elif look.on_background:
        plain = "a plain " if look.background_spread < 5 else f"{choose_article(look.background)} "
        ground = pick(rng, f"on {plain}{look.background} background", f"against {plain}{look.background} ground")
    detail = ""
    if look.detail > 0.12:
        detail = pick(rng, ", with a lot of fine detail", ", with a busy surface")
    elif look.detail < 0.02:
        detail = pick(rng, ", with little fine detail", ", with a quiet surface")
    named = f"{choose_article(name)} {name}"
    if look.on_background and look.colour == look.background:
        return pick(
            rng,
            sentence(f"the image shows {named}", ground, detail),
            sentence(f"I see {named} {ground}, close to it in colour"),
            sentence(f"{named} {ground}", detail),
        )
    return pick(
        rng,
        sentence(f"the image shows {named}, mostly {look.colour}", f", {ground}" if ground else "", detail),
        sentence(f"I see {named} {ground}; its dominant colour is {look.colour}"),
        sentence(f"{named}, {look.colour} for the most part", f", {ground}" if ground else "", detail),
        sentence(f"this is {named} {ground}, largely {look.colour}"),
        sentence(f"first the whole: {named} in {look.colour}", f", {ground}" if ground else ""),
        sentence(f"the {name} appears {look.colour}", f", {ground}" if ground else "", detail),
    )


def tone(spot: Spot) -> str:
    """Describe how a place differs in tone and colour, such as 'darker and less yellow'; '' if it does not."""
    words = [spot.tone, spot.hue]
    return " and ".join(word for word in words if word)


def difference(rng: Random, spot: Spot) -> str:
    """Describe how a place differs from its surroundings, in a clause that follows 'it'."""
    words = tone(spot)
    if not words:
        if spot.roughness > 1.5:
            return pick(
                rng, "is rougher in grain than what lies around it", "has more fine detail than its surroundings"
            )
        if spot.roughness < 0.6:
            return pick(rng, "is smoother than what lies around it", "has lost the grain of its surroundings")
        return pick(rng, "differs only slightly from its surroundings", "is close in tone to what lies around it")
    strength = "clearly" if spot.visibility > 4 else "slightly" if spot.visibility < 1.8 else ""
    return pick(
        rng,
        f"is {strength} {words} than its surroundings",
        f"comes out {strength} {words} than the area around it",
        f"is {strength} {words} than what borders on it",
    ).replace("  ", " ")


def shape(rng: Random, spot: Spot, kind: str | None = None) -> str:
    """Describe the form of a place in a clause that follows 'it'; '' if the form is no evidence for ``kind``."""
    if spot.elongation > 2.4 and (kind is None or kind in LINEAR):
        course = spot.direction
        form = "narrow" if spot.elongation > 4 else "elongated"
        return pick(rng, f"is {form}, running {_to_adverb(course)}", f"is drawn out, {course} in its course")
    if spot.elongation < 1.7 and (kind is None or kind in COMPACT):
        return pick(
            rng,
            "is compact, about as wide as it is high",
            "keeps to one compact patch",
            "is roundish rather than drawn out",
        )
    return ""


def border(rng: Random, spot: Spot) -> str:
    """Describe the border of a place in a clause that follows 'it'; '' if it is neither sharp nor soft."""
    if spot.sharpness > 0.55:
        return pick(rng, "ends abruptly at its border", "has a crisp border", "is sharply bounded")
    if spot.sharpness < 0.22:
        return pick(rng, "fades out gradually", "has no sharp border")
    return ""


def size_word(box: Box) -> str:
    """Return an adjective for the share of the image that a box covers."""
    share = area(box) / 1e6
    limits = ((0.001, "tiny"), (0.006, "small"), (0.04, "moderate"), (0.2, "large"))
    return next((word for limit, word in limits if share < limit), "very large")


def where(rng: Random, box: Box) -> str:
    """Describe the position of a box in words, with or without its centre's coordinates."""
    place = describe_position(box)
    at = {"centre": "in the centre", "left side": "on the left side", "right side": "on the right side"}.get(
        place, f"at the {place}"
    )
    return pick(rng, at, at, f"{at}, about ({(box[0] + box[2]) // 2}, {(box[1] + box[3]) // 2}),")


def spell_number(number: int) -> str:
    """Return a small number in words."""
    return COUNTS[number] if number < len(COUNTS) else "many"


def join_clauses(clauses: list[str]) -> str:
    """Join clauses into a list such as 'is darker, is compact and fades out'."""
    clauses = [clause for clause in clauses if clause]
    if len(clauses) < 2:
        return "".join(clauses)
    return f"{', '.join(clauses[:-1])} and {clauses[-1]}"


def _to_adverb(direction: str) -> str:
    return {"horizontal": "horizontally", "vertical": "vertically"}.get(direction, f"diagonally, {direction}")
