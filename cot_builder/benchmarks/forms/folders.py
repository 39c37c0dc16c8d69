"""Folders in the layout of MVTec AD (see ``mvtec_ad.py``), with any image suffix. ``ground_truth`` is optional.

::

    <category>/{train,test}/good/*          <category>/test/<type>/*          <category>/ground_truth/<type>/*_mask.png
"""

from collections.abc import Iterator

from cot_builder.benchmarks import mvtec_ad
from cot_builder.benchmarks.benchmark import Entry, Files, Layout, Listing
from cot_builder.params import PullSet

FORM = "folders named train, test, good and by types"


def read(_settings: PullSet, files: Files) -> Layout | None:
    """Return the layout if at least one file matches it."""
    return LAYOUT if any(map(mvtec_ad.classify_path, files.paths)) else None


def _entries(listing: Listing) -> Iterator[Entry]:
    with_masks = {key.partition("/")[0] for key in listing.masks}
    for entry in mvtec_ad.entries(listing):
        if entry.mask and entry.category not in with_masks:
            yield Entry(entry.image, entry.category, entry.split, entry.label, entry.raw_type)
        else:
            yield entry


LAYOUT = Layout(mvtec_ad.classify_path, _entries)
