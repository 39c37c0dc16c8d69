"""Forms in which people annotate their own images: one file a form.

Every module of this folder that has a ``FORM`` is one. It has

- ``FORM``: what the form is called in messages, such as ``a table, .csv or .jsonl``;
- ``is_record(path)``, where the form has files of annotations: whether the file at a path of the source may be one. It
  is then read as a whole, before any image;
- ``read(settings, files)``: the :class:`~cot_builder.benchmarks.benchmark.Layout` of a source in this form, None where
  it is in another. ``files`` are the paths of all files and the content of every form's records. What is wrong with
  annotations that are in this form is an error, with file, row and field.

A layout has two functions. ``classify_path`` says of a path whether it is an image or a mask, and what its key is:
:func:`~cot_builder.benchmarks.benchmark.path_within` of it. ``entries`` is called when all images are read, with the
keys of those that are there, and yields an :class:`~cot_builder.benchmarks.benchmark.Entry` for each annotated image:
category, label, the owner's word for the type, and boxes in pixels or the key of a mask.
"""

import pkgutil
from importlib import import_module
from types import ModuleType

FORMS: dict[str, ModuleType] = {
    found.name: module
    for found in pkgutil.iter_modules(__path__)
    if hasattr(module := import_module(f"{__name__}.{found.name}"), "FORM")
}
"""Each form's module by its name."""
