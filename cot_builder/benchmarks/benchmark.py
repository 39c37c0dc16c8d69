"""Types that describe a data set, the layout of its files, and its samples."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

SYNTHETIC = "synthetic"
"""Value of ``source`` for a set of rendered images."""
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Benchmark:
    """Facts about a data set that are the same for every copy."""

    name: str
    title: str
    licence: str
    redistribution: Literal["allowed", "forbidden", "unknown"]
    """Whether others may redistribute the images. unknown is treated as forbidden."""
    clause: str
    """Source of ``redistribution``, worded to be quoted in an error message."""
    attribution: str
    """Attribution that must accompany a redistributed image."""
    citation: str
    homepage: str
    labels: Mapping[str, tuple[str, ...]]
    """Labels of the data set, as published, by type of the taxonomy. They are compared without regard to case, spaces,
    hyphens and underscores."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings of `pull` that few data sets have, each with the reason why the others do not. The reason completes a
    sentence that begins with the name of such a data set, as in ``has its own``."""
    archive: str | None = None
    """File name of the published archive."""
    sha256: str | None = None
    """sha256 of the published archive."""
    published: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Number of samples by (split, label), as published."""
    categories: tuple[str, ...] = ()
    published_test: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Numbers of normal and anomalous test images by category, as published; empty if only the sums are known."""
    bands: int = 1
    """Number of samples that an image is cut into. Band i of n is rows i*h//n to (i+1)*h//n of an image of height h."""
    records_first: bool = False
    """Whether the records determine which files are images. They are then read in a separate first pass."""


class Files(NamedTuple):
    """Files found by the first pass over a source; empty unless :attr:`Benchmark.records_first` is set."""

    paths: tuple[str, ...] = ()
    """Paths of all files of the source in order, prefixed with the name of the source (see :func:`path_within`)."""
    records: Mapping[str, bytes] = {}
    """Content of the record files by path."""


def path_within(path: str) -> str:
    """Remove the name of the source from a path, so that a renamed copy gives the same data."""
    return path.partition("/")[2]


class ClassifiedPath(NamedTuple):
    """Role of a file of a source, and its key in the data set."""

    role: Literal["image", "mask", "record", "unlisted", "other"]
    """unlisted: an image that no record names. other: a file of the data set that was not requested."""
    key: str
    """Path inside the data set, without the folders above it in this copy."""


@dataclass(frozen=True)
class Listing:
    """Keys of the files in a copy of a data set."""

    images: Collection[str]
    masks: Collection[str]
    records: Mapping[str, bytes]
    """Content of the label and split files."""
    other: Collection[str] = ()
    notes: list[tuple[str, str, str]] = field(default_factory=list)
    """(reason, item, detail): doubts about labels, for the manifest."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One sample, as the data set lists it."""

    image: str
    category: str
    split: Literal["train", "test"]
    label: Literal["normal", "anomalous"] | None
    """None: the sample is anomalous, and in the test split, if the mask has a marked pixel in its band."""
    raw_type: str | None = None
    """Defect label of the data set; None for normal samples."""
    mask: str | None = None
    """Key of the required mask; None if no mask is published."""
    view: str = "default"
    part: str | None = None
    """Name of the physical part; None if the image is the only one of its part."""
    band: int = 0
    boxes: tuple[tuple[int, int, int, int], ...] = ()
    """Half-open boxes in pixels. They are ignored if there is a mask."""
    listed: str | None = None
    """Label implied by a published list, for comparison if ``label`` is None."""
    where: str = ""
    """File and row that list the sample."""


@dataclass(frozen=True)
class Layout:
    """Functions that read the files of a data set."""

    classify_path: Callable[[str], ClassifiedPath | None]
    """Returns the role and key of the file at a path; None if the file is not part of the data set."""
    entries: Callable[[Listing], Iterator[Entry]]
    """Yields all samples that the records or folders of the copy name, in a fixed order.

    Raises:
        IndusCotError: a record that the labels depend on is missing or malformed.
    """
