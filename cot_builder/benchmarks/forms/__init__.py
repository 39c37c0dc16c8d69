"""Annotation forms for own data, one file per form.

Every module of this folder with a ``FORM`` is a form. It defines

- ``FORM``: the name of the form in messages, such as ``a table, .csv or .jsonl``;
- ``is_record(path)``, if the form has annotation files: whether the file at a path of the source may be one. Such files
  are read completely before any image;
- ``read(settings, files)``: returns the :class:`~cot_builder.benchmarks.benchmark.Layout` of a source in this form, or
  None if the source has another form. ``files`` contains the paths of all files and the content of the records of all
  forms. Invalid annotations of this form raise an error with file, row and field.

A layout has two functions. ``classify_path`` returns whether a path is an image or a mask, and its key, which is
:func:`~cot_builder.benchmarks.benchmark.path_within` of the path. ``entries`` is called after all images have been
read, with the keys of the existing files. It yields an :class:`~cot_builder.benchmarks.benchmark.Entry` for each
annotated image: category, label, the owner's word for the type, and boxes in pixels or the key of a mask.
"""

import pkgutil
from importlib import import_module
from types import ModuleType

FORMS: dict[str, ModuleType] = {
    found.name: module
    for found in pkgutil.iter_modules(__path__)
    if hasattr(module := import_module(f"{__name__}.{found.name}"), "FORM")
}
"""Module of each form by its name."""
