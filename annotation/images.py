"""Stores the images that experts see where Label Studio serves them from: in its own folder or in an S3 bucket."""

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

IMAGE_FOLDER = "review"
"""Subfolder of the folder that Label Studio serves: its local storage must point to a subfolder, not to the folder."""
BROWSER_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
"""Image formats that every browser shows."""
PARALLEL_UPLOADS = 16
ATTEMPTS = 5
"""Attempts for one request to S3."""
ABOUT_FILE = "about.txt"
"""A file beside the images in a bucket: Label Studio accepts no storage whose prefix holds no file."""
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
ACCESS_ERRORS = (
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH",
    "EXPIRED_TOKEN",
    "INVALID_CLIENT_TOKEN",
)
"""AWS error codes that mean that the credentials do not suffice."""
NamedImage = tuple[str, Callable[[], bytes]]
"""An image's file name, made from the hash of its content, and a function that returns the content."""


class ServedImages:
    """Stores images under the hash of their content and returns their addresses."""

    def __init__(self, workspace: Workspace, params: Review) -> None:
        self.store: FolderStore | BucketStore = (
            FolderStore(workspace) if params.images == "local" else BucketStore(params.images)
        )
        self._samples = SampleImages(workspace)
        self._workspace = workspace
        self._crop_names: dict[str, str] = {}
        """Names of images cropped from a published file, by sample: a name is known only after cropping."""

    @cached_property
    def _observations(self) -> ObservationImages:
        # Open only when needed: priors can be reviewed before anything is drafted.
        return ObservationImages(self._workspace.draft)

    def sample_url(self, sample: Sample) -> str:
        """Return the address of the inspected image: the published file, or the region that was cropped from it."""
        return self._store_image(self._get_sample_image(sample))

    def sample_url_in_html(self, sample: Sample, project: int) -> str:
        """Return the address of the inspected image for a text with several addresses, valid only in ``project``.

        Label Studio replaces only the first bucket address in a text, so such a text needs addresses of the server.
        """
        address = self.sample_url(sample)
        if isinstance(self.store, FolderStore):
            return address
        return f"/projects/{project}/resolve/?fileuri={urlsafe_b64encode(address.encode()).decode()}"

    def observation_url(self, digest: str) -> str:
        """Return the address of the image that a tool returned."""
        return self._store_image(self._get_observation_image(digest))

    def upload(self, samples: Iterable[Sample], observations: Iterable[str]) -> None:
        """Upload the images that a bucket lacks, in parallel; a folder is filled whenever an address is requested.

        Raises:
            IndusCotError: S3 fails. Uploaded images stay, and the next upload continues with the rest.
        """
        if not isinstance(self.store, BucketStore):
            return
        missing: dict[str, Callable[[], bytes]] = {}
        for name, read in [*map(self._get_sample_image, samples), *map(self._get_observation_image, observations)]:
            if name not in self.store:
                missing[name] = read
        with ThreadPoolExecutor(PARALLEL_UPLOADS) as pool:
            pending: set[Future[None]] = set()
            try:
                for name in track(list(missing), "review push: images", len(missing)):
                    # Read in this thread: the shard readers are not thread-safe.
                    pending.add(pool.submit(self.store.put, name, missing[name]()))
                    if len(pending) >= 2 * PARALLEL_UPLOADS:
                        done, pending = wait(pending, return_when=FIRST_COMPLETED)
                        for upload in done:
                            upload.result()
                for upload in pending:
                    upload.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _store_image(self, image: NamedImage) -> str:
        name, read = image
        if name not in self.store:
            self.store.put(name, read())
        return self.store.get_url(name)

    def _get_sample_image(self, sample: Sample) -> NamedImage:
        if sample.region is None and sample.image_format in BROWSER_FORMATS:
            return f"{sample.image_sha256}.{sample.image_format.lower()}", lambda: self._samples.original(sample)
        if sample.sample_id not in self._crop_names:
            self._crop_names[sample.sample_id] = f"{sha256(self._encode_sample(sample)).hexdigest()}.png"
        return self._crop_names[sample.sample_id], lambda: self._encode_sample(sample)

    def _encode_sample(self, sample: Sample) -> bytes:
        return encode_png(self._samples.pixels(sample))

    def _get_observation_image(self, digest: str) -> NamedImage:
        return f"{digest}.png", lambda: self._observations.get(digest)


class FolderStore:
    """Images in the folder ``images/review`` of the server."""

    def __init__(self, workspace: Workspace) -> None:
        self.folder = workspace.label_studio / "images" / IMAGE_FOLDER
        self._known_names: set[str] = set()
        """Names of images that are in the folder: many pages show the same image, so look only once."""

    def __contains__(self, name: object) -> bool:
        if name not in self._known_names and self._path(str(name)).is_file():
            self._known_names.add(str(name))
        return name in self._known_names

    def put(self, name: str, data: bytes) -> None:
        write_bytes(self._path(name), data)
        self._known_names.add(name)

    def get_url(self, name: str) -> str:
        return f"/data/local-files/?d={IMAGE_FOLDER}/{name[:2]}/{name}"

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name


class BucketStore:
    """Images below a prefix of an S3 bucket, which is listed once.

    Credentials, region and endpoint come from the usual AWS variables or profile.

    Raises:
        IndusCotError: S3 cannot be reached or denies access, or the bucket does not exist.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.bucket, _, self.prefix = url.removeprefix("s3://").partition("/")
        self._endpoint = next(filter(None, map(os.environ.get, ENDPOINT_VARIABLES)), None)
        with self._translate_errors():
            self._s3 = fs.S3FileSystem(
                endpoint_override=self._endpoint,
                region=None if self._endpoint else fs.resolve_s3_region(self.bucket),
                retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
                allow_delayed_open=True,
            )
            self.region: str = self._s3.region
            # Without `allow_not_found` an empty prefix fails. With it a missing bucket looks empty; `put` then fails.
            here = fs.FileSelector(f"{self.bucket}/{self.prefix}", allow_not_found=True, recursive=True)
            self._known_names = {item.base_name for item in self._s3.get_file_info(here)}
        if ABOUT_FILE not in self._known_names:
            self.put(ABOUT_FILE, b"Images that experts see in Label Studio, named by the SHA-256 of their content.\n")

    def __contains__(self, name: object) -> bool:
        return name in self._known_names

    def put(self, name: str, data: bytes) -> None:
        suffix = name.rpartition(".")[2]
        kind = "text/plain" if suffix == "txt" else f"image/{suffix}"
        with (
            self._translate_errors(),
            self._s3.open_output_stream(
                f"{self.bucket}/{self.prefix}/{name}", compression=None, metadata={"Content-Type": kind}
            ) as stream,
        ):
            stream.write(data)
        self._known_names.add(name)

    def get_url(self, name: str) -> str:
        return f"{self.url}/{name}"

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise IndusCotError(f"{self.url}: {self._describe_error(str(error))}") from error

    def _describe_error(self, message: str) -> str:
        server = self._endpoint or "Amazon S3"
        match = re.search(r"AWS Error (\w+)", message)
        code = match[1] if match else ""
        if code == "NO_SUCH_BUCKET":
            return f"there is no bucket {self.bucket} at {server}; create it, or set review.images"
        if code in ACCESS_ERRORS:
            return (
                f"{server} denies access ({code.lower().replace('_', ' ')}). Credentials "
                "come from $AWS_ACCESS_KEY_ID and $AWS_SECRET_ACCESS_KEY, or from $AWS_PROFILE; "
                "they need s3:ListBucket, s3:GetObject and s3:PutObject"
            )
        if code == "NETWORK_CONNECTION":
            reason = f"{server} cannot be reached; if you do not use Amazon S3, set $AWS_ENDPOINT_URL to your server"
        else:
            reason = f"{server} fails: {' '.join(message.split())[:400]}"
        return f"{reason}. Run the same command again: it continues where it stopped"
