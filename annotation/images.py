"""The images an expert sees: put once where Label Studio serves them from, a folder of its own or a bucket."""

import os
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from pyarrow import fs

from cot_builder.corpus.drafts import ObservationImages
from cot_builder.params import Review
from cot_builder.progress import track
from cot_builder.storage.images import encode_png
from cot_builder.storage.output import write_bytes
from cot_builder.storage.samples import SampleImages
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError
from schemas.sample import Sample

FOLDER = "review"
"""Below the folder Label Studio serves; its local storage must name a folder below that one."""
SHOWN_AS_THEY_ARE = ("JPEG", "PNG", "WEBP", "BMP")
"""Formats every browser shows."""
UPLOADS_AT_ONCE = 16
ATTEMPTS = 5
"""Of one request to S3."""
ABOUT = "about.txt"
"""Lies beside the images in a bucket: Label Studio takes no storage whose prefix is empty."""
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
REFUSED = (
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH",
    "EXPIRED_TOKEN",
    "INVALID_CLIENT_TOKEN",
)
Named = tuple[str, Callable[[], bytes]]
"""An image's name, by its content, and how to get it."""


class ServedImages:
    """Images named by their content, and their addresses."""

    def __init__(self, workspace: Workspace, params: Review) -> None:
        self.store: Folder | Bucket = Folder(workspace) if params.images == "local" else Bucket(params.images)
        self._samples = SampleImages(workspace)
        self._workspace = workspace
        self._cut: dict[str, str] = {}
        """Names of images cut out of a published file, by sample: to know one, it must be cut out."""

    @cached_property
    def _observations(self) -> ObservationImages:
        # Read when asked for: priors are reviewed before anything is drafted.
        return ObservationImages(self._workspace.draft)

    def sample(self, sample: Sample) -> str:
        """Address of the inspected image: the published file, or the region that was cut out of it."""
        return self._served(self._of_sample(sample))

    def sample_among_others(self, sample: Sample, project: int) -> str:
        """As :meth:`sample`, for a text that holds several addresses; valid in the project of this number."""
        address = self.sample(sample)
        if isinstance(self.store, Folder):
            return address
        # Of several addresses of a bucket in one text, Label Studio sees only the first.
        return f"/projects/{project}/resolve/?fileuri={urlsafe_b64encode(address.encode()).decode()}"

    def observation(self, digest: str) -> str:
        """Address of what a tool returned."""
        return self._served(self._of_observation(digest))

    def upload(self, samples: Iterable[Sample], observations: Iterable[str]) -> None:
        """Put into a bucket what is missing there, several at a time; a folder is filled as addresses are asked for.

        Raises:
            IndusCotError: S3 fails. What was uploaded stays, and the next upload goes on.
        """
        if not isinstance(self.store, Bucket):
            return
        missing: dict[str, Callable[[], bytes]] = {}
        for name, read in [*map(self._of_sample, samples), *map(self._of_observation, observations)]:
            if name not in self.store:
                missing[name] = read
        with ThreadPoolExecutor(UPLOADS_AT_ONCE) as pool:
            under_way: set[Future[None]] = set()
            try:
                for name in track(list(missing), "review push: images", len(missing)):
                    # Read here: what reads the shards is not made for several threads.
                    under_way.add(pool.submit(self.store.put, name, missing[name]()))
                    if len(under_way) >= 2 * UPLOADS_AT_ONCE:
                        done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                        for upload in done:
                            upload.result()
                for upload in under_way:
                    upload.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _served(self, image: Named) -> str:
        name, read = image
        if name not in self.store:
            self.store.put(name, read())
        return self.store.address(name)

    def _of_sample(self, sample: Sample) -> Named:
        if sample.region is None and sample.image_format in SHOWN_AS_THEY_ARE:
            return f"{sample.image_sha256}.{sample.image_format.lower()}", lambda: self._samples.original(sample)
        if sample.sample_id not in self._cut:
            self._cut[sample.sample_id] = f"{sha256(self._png(sample)).hexdigest()}.png"
        return self._cut[sample.sample_id], lambda: self._png(sample)

    def _png(self, sample: Sample) -> bytes:
        return encode_png(self._samples.pixels(sample))

    def _of_observation(self, digest: str) -> Named:
        return f"{digest}.png", lambda: self._observations.get(digest)


class Folder:
    """``images/review`` of the server's folder."""

    def __init__(self, workspace: Workspace) -> None:
        self.folder = workspace.label_studio / "images" / FOLDER
        self._there: set[str] = set()
        """Names that were seen: many pages show the same image."""

    def __contains__(self, name: object) -> bool:
        if name not in self._there and self._path(str(name)).is_file():
            self._there.add(str(name))
        return name in self._there

    def put(self, name: str, data: bytes) -> None:
        write_bytes(self._path(name), data)
        self._there.add(name)

    def address(self, name: str) -> str:
        return f"/data/local-files/?d={FOLDER}/{name[:2]}/{name}"

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name


class Bucket:
    """A prefix of an S3 bucket, listed once.

    Credentials, region and endpoint are those of the AWS variables or profile, as everywhere.

    Raises:
        IndusCotError: S3 cannot be reached or refuses; the bucket is not there.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.bucket, _, self.prefix = url.removeprefix("s3://").partition("/")
        self._endpoint = next(filter(None, map(os.environ.get, ENDPOINT_VARIABLES)), None)
        with self._failures():
            self._s3 = fs.S3FileSystem(
                endpoint_override=self._endpoint,
                region=None if self._endpoint else fs.resolve_s3_region(self.bucket),
                retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
                allow_delayed_open=True,
            )
            self.region: str = self._s3.region
            # Without `allow_not_found` an empty prefix fails; with it, a bucket that is not there seems empty.
            here = fs.FileSelector(f"{self.bucket}/{self.prefix}", allow_not_found=True, recursive=True)
            self._there = {item.base_name for item in self._s3.get_file_info(here)}
        if ABOUT not in self._there:
            self.put(ABOUT, b"Images that experts see in Label Studio, named by the SHA-256 of their content.\n")

    def __contains__(self, name: object) -> bool:
        return name in self._there

    def put(self, name: str, data: bytes) -> None:
        suffix = name.rpartition(".")[2]
        kind = "text/plain" if suffix == "txt" else f"image/{suffix}"
        with (
            self._failures(),
            self._s3.open_output_stream(
                f"{self.bucket}/{self.prefix}/{name}", compression=None, metadata={"Content-Type": kind}
            ) as stream,
        ):
            stream.write(data)
        self._there.add(name)

    def address(self, name: str) -> str:
        return f"{self.url}/{name}"

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise IndusCotError(f"{self.url}: {self._reason(str(error))}") from error

    def _reason(self, said: str) -> str:
        at = self._endpoint or "Amazon S3"
        found = re.search(r"AWS Error (\w+)", said)
        code = found[1] if found else ""
        if code == "NO_SUCH_BUCKET":
            return f"there is no bucket {self.bucket} at {at}; make it, or set review.images"
        if code in REFUSED:
            return (
                f"{at} refuses ({code.lower().replace('_', ' ')}). Credentials are those of $AWS_ACCESS_KEY_ID and "
                "$AWS_SECRET_ACCESS_KEY, or of $AWS_PROFILE; they need s3:ListBucket, s3:GetObject and s3:PutObject"
            )
        if code == "NETWORK_CONNECTION":
            reason = f"{at} cannot be reached; $AWS_ENDPOINT_URL names another S3 than Amazon's"
        else:
            reason = f"{at} fails: {' '.join(said.split())[:400]}"
        return f"{reason}. Run the same command again: it goes on where it was"
