"""People's own parts: any images, annotated in one of the forms of ``forms/``.

Licence: the owner's, unknown here unless the set's ``licence`` and ``redistribution`` in params.yaml state it; while
they do not, ``publish`` passes no image on.

Layout: that of the form, which is recognised by what lies there. Labels: any type of the taxonomy, any data set's
label, and the words below, which win over a data set's reading of the same word.
"""

from collections.abc import Iterable, Mapping
from types import ModuleType

from cot_builder.benchmarks.benchmark import Benchmark, ClassifiedPath, Files, Layout
from cot_builder.benchmarks.forms import FORMS, folders
from cot_builder.params import PullSet
from schemas.errors import IndusCotError

BENCHMARK = Benchmark(
    name="folder",
    title="own data",
    licence="unknown",
    redistribution="unknown",
    clause="the licence is the owner's to state: `licence`, `redistribution` and `attribution` of the set "
    "in params.yaml",
    attribution="the owner of the images",
    citation="",
    homepage="",
    labels={
        "abrasion": (
            "scuff",
            "wear",
            "worn",
        ),
        "dent": (
            "dents",
            "impression",
        ),
        "pit": (
            "pits",
            "pitting",
            "blowhole",
            "pore",
        ),
        "crack": (
            "cracks",
            "fracture",
        ),
        "hole": (
            "holes",
            "pinhole",
            "puncture",
        ),
        "cut": (
            "cuts",
            "slit",
        ),
        "discolouration": (
            "discoloration",
            "colour",
            "burn",
            "bad_paint",
        ),
        "corrosion": (
            "rust",
            "rusty",
            "oxidation",
        ),
        "print_error": ("misprint",),
        "texture_irregularity": (
            "fray",
            "frayed",
            "uneven",
        ),
        "bubble": (
            "bubbles",
            "blister",
        ),
        "foreign_matter": (
            "foreign_object",
            "foreign_objects",
            "foreign_body",
        ),
        "stain": (
            "stains",
            "smear",
            "dirty",
        ),
        "leak": ("leakage",),
        "broken": (
            "breakage",
            "break",
            "chip",
            "chipped",
            "damaged",
        ),
        "deformation": (
            "deformed",
            "bend",
            "warped",
        ),
        "missing_part": (
            "missing_parts",
            "absent",
        ),
        "misplaced": (
            "misaligned",
            "misalignment",
            "shifted",
            "rotated",
        ),
        "wrong_part": ("swapped",),
        "unspecified": (
            "bad",
            "defect",
            "anomaly",
            "anomalous",
            "abnormal",
            "ng",
            "unknown",
            "mixed",
        ),
    },
    settings=dict.fromkeys(("licence", "redistribution", "attribution"), "has its own"),
    records_first=True,
)


def classify_path(path: str) -> ClassifiedPath | None:
    """A file that some form reads before images."""
    read_first = any(form.is_record(path) for form in _with_records())
    return ClassifiedPath("record", path) if read_first else None


def layout(settings: PullSet, files: Files) -> Layout:
    """The layout that the one form reads which recognises the source; that of plain folders where none does.

    Forms that read files of annotations are asked first: what is written down outranks in which folder a file lies.

    Raises:
        IndusCotError: a form finds the annotations wrong, or several forms recognise the source.
    """
    without_records = [form for form in FORMS.values() if not hasattr(form, "is_record")]
    for forms in (_with_records(), without_records):
        if found := _read(forms, settings, files):
            if len(found) > 1:
                raise IndusCotError(
                    f"{settings.source}: holds annotations in {len(found)} forms: {'; '.join(found)}. Keep one of them"
                )
            return next(iter(found.values()))
    return folders.LAYOUT


def _with_records() -> list[ModuleType]:
    return [form for form in FORMS.values() if hasattr(form, "is_record")]


def _read(forms: Iterable[ModuleType], settings: PullSet, files: Files) -> Mapping[str, Layout]:
    """Layouts of the forms that recognise the source, by what each form is called."""
    layouts = {form.FORM: form.read(settings, files) for form in forms}
    return {form: layout for form, layout in layouts.items() if layout}
