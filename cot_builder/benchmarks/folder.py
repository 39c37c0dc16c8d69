"""Own data: any images, annotated in one of the forms of ``forms/``.

Licence: the owner's. It is unknown unless ``licence`` and ``redistribution`` of the set in params.yaml state it. Until
then, ``publish`` includes no image.

Layout: that of the form, which is recognised by the files of the source. Labels: any type of the taxonomy, the labels
of all data sets, and the words below. The words below take precedence over the same label of a data set.
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
    """Return the file as a record if a form reads it before images."""
    is_record = any(form.is_record(path) for form in _list_forms_with_records())
    return ClassifiedPath("record", path) if is_record else None


def layout(settings: PullSet, files: Files) -> Layout:
    """Return the layout from the form that recognises the source. Without one, the layout of plain folders.

    Forms with annotation files are tried first, because written annotations take precedence over folder names.

    Raises:
        IndusCotError: the annotations are invalid, or several forms recognise the source.
    """
    without_records = [form for form in FORMS.values() if not hasattr(form, "is_record")]
    for forms in (_list_forms_with_records(), without_records):
        if found := _read_forms(forms, settings, files):
            if len(found) > 1:
                raise IndusCotError(
                    f"{settings.source}: has annotations in {len(found)} forms: {'; '.join(found)}. Keep one of them"
                )
            return next(iter(found.values()))
    return folders.LAYOUT


def _list_forms_with_records() -> list[ModuleType]:
    return [form for form in FORMS.values() if hasattr(form, "is_record")]


def _read_forms(forms: Iterable[ModuleType], settings: PullSet, files: Files) -> Mapping[str, Layout]:
    """Return the layouts of the forms that recognise the source, by the name of the form in messages."""
    layouts = {form.FORM: form.read(settings, files) for form in forms}
    return {form: layout for form, layout in layouts.items() if layout}
