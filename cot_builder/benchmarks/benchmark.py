"""What every data set is described by, and what its layout says of its files."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

SYNTHETIC = "synthetic"
"""The source of a set that is rendered."""
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Benchmark:
    """Facts on a data set that do not depend on a copy of it."""

    name: str
    title: str
    licence: str
    redistribution: Literal["allowed", "forbidden", "unknown"]
    """Whether its images may be passed on by others; what is not known is treated as forbidden."""
    clause: str
    """What says so, in words that a refusal can quote."""
    attribution: str
    """Who is to be named with an image that is passed on."""
    citation: str
    homepage: str
    labels: Mapping[str, tuple[str, ...]]
    """Type of the taxonomy to the data set's own labels for it, as published. They are compared without regard to
    case, spaces, hyphens and underscores."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings of `pull` that this data set has and most have not, each with why those have none: how a sentence goes
    on that begins with the name of such a data set, as in ``has its own``."""
    archive: str | None = None
    """File name of the published archive."""
    sha256: str | None = None
    """Of the published archive."""
    published: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Samples by (split, label), as published."""
    categories: tuple[str, ...] = ()
    published_test: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Normal and anomalous test images by category, as published; empty where only the sums are known."""
    bands: int = 1
    """Samples an image is cut into, by rows: band i of n of a height h is rows i*h//n to (i+1)*h//n."""
    records_first: bool = False
    """Which files are images follows from records, which are therefore read in a pass of their own."""


class Files(NamedTuple):
    """Files found by a first pass over a source; empty unless :attr:`Benchmark.records_first` asks for one."""

    paths: tuple[str, ...] = ()
    """Every file of the source, in its order, each with the source's own name in front (:func:`path_within`)."""
    records: Mapping[str, bytes] = {}
    """Content of the files that the data set reads before images, by path."""


def path_within(path: str) -> str:
    """Path without the source's own name, so that a copy under another name is the same data."""
    return path.partition("/")[2]


class ClassifiedPath(NamedTuple):
    """What a file of a source is to the data set."""

    role: Literal["image", "mask", "record", "unlisted", "other"]
    """unlisted: an image that no record names; other: part of the data set, but not asked for."""
    key: str
    """Path inside the data set, without whatever lies in front of it in this copy."""


@dataclass(frozen=True)
class Listing:
    """Which files a copy of a data set has, by key."""

    images: Collection[str]
    masks: Collection[str]
    records: Mapping[str, bytes]
    """Label and split files, whole."""
    other: Collection[str] = ()
    notes: list[tuple[str, str, str]] = field(default_factory=list)
    """(what, item, detail): doubts about labels, for the manifest."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One sample as the data set lists it."""

    image: str
    category: str
    split: Literal["train", "test"]
    label: Literal["normal", "anomalous"] | None
    """None: anomalous, and test, where the mask has a pixel in the sample's band."""
    raw_type: str | None = None
    """The data set's own defect label; None on normal samples."""
    mask: str | None = None
    """Key of the mask that must be there; None where none is published."""
    view: str = "default"
    part: str | None = None
    """Names the physical part within the data set; None: the image is the only one of its part."""
    band: int = 0
    boxes: tuple[tuple[int, int, int, int], ...] = ()
    """Pixels, half-open; where there is a mask it counts instead."""
    listed: str | None = None
    """With label None: the label that a published list implies, to compare."""
    where: str = ""
    """File and row that said so."""


@dataclass(frozen=True)
class Layout:
    """How a data set's files are to be read."""

    classify_path: Callable[[str], ClassifiedPath | None]
    """What the file at a path is; None for a file that is no part of the data set."""
    entries: Callable[[Listing], Iterator[Entry]]
    """Every sample that the copy's records or folders name, in a fixed order.

    Raises:
        IndusCotError: a record that the labels depend on is absent or malformed.
    """
