"""The door to the Hub: what is there, what differs, one guarded commit; every refusal in words that say what to do."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from cot_builder.progress import console, track
from schemas.errors import IndusCotError

Kind = Literal["dataset", "model"]
T = TypeVar("T")
ATTEMPTS = 5
BACKOFF_S = 0.5
LONGEST_WAIT_S = 60.0
AT_ONCE = 32
"""Files that are uploaded before progress is told."""
BLOCK = 2**20


class Held(NamedTuple):
    """A file in a repository."""

    size: int
    sha256: str | None
    """Of a large file; None of one that git itself keeps."""
    blob: str
    """git's own hash of a file that git keeps."""


class Remote(NamedTuple):
    """A repository as it was looked at."""

    head: str | None
    """Its last commit; None where there is no such repository."""
    files: Mapping[str, Held]


class Commit(NamedTuple):
    """What was pushed."""

    revision: str
    """To load it back by."""
    url: str
    pull_request: bool


class Hub:
    """One repository, seen with one account.

    Raises:
        IndusCotError: there is no token, the Hub does not know it, or it cannot be reached.
    """

    def __init__(self, repo: str, kind: Kind) -> None:
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.utils import HFValidationError, validate_repo_id

        self.repo, self.kind = repo, kind
        try:
            validate_repo_id(repo)
        except HFValidationError:
            repo = repo.partition("/")[2] and ""
        if not repo.partition("/")[2]:
            raise IndusCotError(
                f"{self.repo!r}: is no repository; write --repo OWNER/NAME, your account or organisation first"
            )
        token = get_token()
        if not token:
            raise IndusCotError(
                "the Hub wants to know who you are: run `hf auth login`, or set HF_TOKEN, with a token that may write "
                "(huggingface.co/settings/tokens)"
            )
        self._api: Any = HfApi(token=token)
        self.account = self._do(self._api.whoami)["name"]

    @property
    def _named(self) -> dict[str, Any]:
        return {"repo_id": self.repo, "repo_type": self.kind}

    def look(self) -> Remote:
        """The repository's head and its files.

        Raises:
            IndusCotError: there is none, and its name is that of a repository of the other kind.
        """
        from huggingface_hub.errors import RepositoryNotFoundError
        from huggingface_hub.hf_api import RepoFile

        def files(head: str) -> dict[str, Held]:
            tree = self._api.list_repo_tree(**self._named, revision=head, recursive=True)
            return {
                item.path: Held(item.size, item.lfs.sha256 if item.lfs else None, item.blob_id)
                for item in tree
                if isinstance(item, RepoFile)
            }

        try:
            head = self._do(lambda: self._api.repo_info(**self._named).sha)
            return Remote(head, self._do(lambda: files(head)))
        except RepositoryNotFoundError:
            other: Kind = "model" if self.kind == "dataset" else "dataset"
            if self._do(lambda: self._api.repo_exists(self.repo, repo_type=other)):
                raise IndusCotError(
                    f"{self.repo}: is a {other} on the Hub, and a {self.kind} of the same name would be taken for it; "
                    "choose another name with --repo"
                ) from None
            return Remote(None, {})

    def create(self, private: bool) -> Remote:
        """Make the repository; one of the same kind that is there already is taken as it is."""
        self._do(lambda: self._api.create_repo(**self._named, private=private, exist_ok=True))
        return self.look()

    def read(self, path: str, revision: str) -> bytes:
        """A file of the repository."""

        def fetch() -> bytes:
            found = self._api.hf_hub_download(self.repo, path, repo_type=self.kind, revision=revision)
            return Path(found).read_bytes()

        with quiet():
            return self._do(fetch)

    def validate(self, card: str) -> None:
        """Let the Hub check the metadata of a card.

        Raises:
            IndusCotError: it finds a fault.
        """
        from huggingface_hub import RepoCard

        try:
            self._do(lambda: RepoCard(card).validate(repo_type=self.kind))
        except ValueError as error:
            raise IndusCotError(f"the Hub refuses the card's metadata: {error}") from None

    def push(
        self, changed: Mapping[str, Path | bytes], gone: list[str], remote: Remote, message: str, pull_request: bool
    ) -> Commit:
        """One commit on top of ``remote``. Large files go first: what arrived of an interrupted push is kept.

        Raises:
            IndusCotError: somebody else has committed since ``remote`` was looked at; the Hub refuses.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete
        from huggingface_hub.errors import HfHubHTTPError

        adds = [
            CommitOperationAdd(path, source if isinstance(source, bytes) else str(source))
            for path, source in sorted(changed.items())
        ]
        with quiet():
            groups = [adds[start : start + AT_ONCE] for start in range(0, len(adds), AT_ONCE)]
            for group in track(groups, f"upload to {self.repo} ({AT_ONCE} files each)", len(groups)):
                self._do(lambda group=group: self._api.preupload_lfs_files(  # type: ignore[misc]
                    self.repo, group, repo_type=self.kind, create_pr=pull_request, free_memory=False
                ))  # fmt: skip
            operations = [*adds, *(CommitOperationDelete(path) for path in gone)]
            try:
                done = self._do(
                    lambda: self._api.create_commit(
                        **self._named,
                        operations=operations,
                        commit_message=message,
                        parent_commit=remote.head,
                        create_pr=pull_request,
                    )
                )
            except HfHubHTTPError as error:
                if error.response.status_code != 412:
                    raise
                now = self.look()
                # The answer to a commit that was taken may be lost on its way: then what is there is ours.
                if differing(changed, now.files) or any(path in now.files for path in gone):
                    raise IndusCotError(
                        f"{self.repo}: somebody else has committed since it was looked at ({(remote.head or '')[:8]}, "
                        f"now {(now.head or '')[:8]}); nothing was overwritten. Look at `indus-cot diff`, then publish "
                        "again"
                    ) from None
                return Commit(now.head or "main", f"{self._api.endpoint}/{self.repo}", False)
        return Commit(done.pr_revision or done.oid, done.pr_url or done.commit_url, bool(done.pr_url))

    def tag(self, name: str, revision: str) -> bool:
        """Name a commit; False where it has the name already.

        Raises:
            IndusCotError: another commit has it.
        """
        refs = self._do(lambda: self._api.list_repo_refs(**self._named))
        if found := next((item.target_commit for item in refs.tags if item.name == name), None):
            if found == revision:
                return False
            raise IndusCotError(f"{self.repo}: another commit, {found[:8]}, has the tag {name}; delete it there first")
        self._do(lambda: self._api.create_tag(**self._named, tag=name, revision=revision))
        return True

    def _do(self, action: Callable[[], T]) -> T:
        return again(action, self.repo)


def again(
    action: Callable[[], T],
    repo: str,
    kept: str = "nothing was committed. What arrived is kept: run the same command again to go on",
) -> T:
    """Do something on the Hub, again where that can help: 429 (as long as it says), 5xx, broken connections.

    Raises:
        IndusCotError: it refuses, or cannot be reached after several attempts. Its text never has a header in it.
        HfHubHTTPError: 404 and 412, which mean something to the caller.
    """
    from huggingface_hub.errors import HfHubHTTPError

    reason = ""
    for attempt in range(ATTEMPTS):
        wait = BACKOFF_S * 2**attempt
        try:
            return action()
        except Exception as raised:
            error = _cause(raised)
            if isinstance(error, HfHubHTTPError):
                status = error.response.status_code
                if status in (404, 412):
                    raise error from None
                if status != 429 and status < 500:
                    raise _refusal(status, repo, error) from None
                reason = f"the Hub answers {status}"
                said = error.response.headers.get("Retry-After", "")
                wait = float(said) if said.isdigit() else wait
            elif isinstance(error, broken()):
                reason = f"the connection broke ({type(error).__name__})"
            else:
                raise
        if attempt + 1 < ATTEMPTS:
            console.print(f"{repo}: {reason}; trying again", highlight=False, markup=False)
            time.sleep(min(wait, LONGEST_WAIT_S))
    raise IndusCotError(f"{repo}: {reason}, after {ATTEMPTS} attempts; {kept}")


def broken() -> tuple[type[Exception], ...]:
    """What a connection that breaks raises."""
    import httpx
    import httpx2

    return (httpx2.TransportError, httpx.TransportError, ConnectionError)


def _cause(error: BaseException) -> BaseException:
    """What the Hub or the network said, where `huggingface_hub` wraps it: a failed upload, a file that is not there."""
    from huggingface_hub.errors import HfHubHTTPError

    known: tuple[type[BaseException], ...] = (HfHubHTTPError, *broken())
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, known):
        inner = inner.__cause__ or inner.__context__
    return inner or error


def _refusal(status: int, repo: str, error: Any) -> IndusCotError:
    from huggingface_hub import get_token

    if status == 401 and not get_token():
        return IndusCotError(
            f"{repo}: is not there, or is private or gated, and nobody is logged in (401). Run `hf auth login`, or set "
            "HF_TOKEN, and look at the name"
        )
    if status == 401:
        return IndusCotError(
            "the Hub does not know the token (401): it is wrong, or was revoked. Run `hf auth login`, or set HF_TOKEN"
        )
    if status == 403:
        return IndusCotError(
            f"{repo}: the token has no right to write there (403). Use a token with write access to it "
            "(huggingface.co/settings/tokens), or publish under your own name with --repo"
        )
    told = (error.server_message or "").splitlines()
    return IndusCotError(f"{repo}: the Hub refuses ({status}){': ' + told[0] if told else ''}")


def differing(wanted: Mapping[str, Path | bytes], there: Mapping[str, Held]) -> dict[str, Path | bytes]:
    """Which of the wanted files are not there with the same content."""
    return {path: source for path, source in wanted.items() if path not in there or not _same(source, there[path])}


def size_of(source: Path | bytes) -> int:
    """Bytes of a file."""
    return len(source) if isinstance(source, bytes) else source.stat().st_size


def _same(source: Path | bytes, held: Held) -> bool:
    if size_of(source) != held.size:
        return False
    if held.sha256:
        return _digest(hashlib.sha256(), source) == held.sha256
    return _digest(hashlib.sha1(b"blob %d\0" % held.size, usedforsecurity=False), source) == held.blob


def _digest(whole: Any, source: Path | bytes) -> str:
    if isinstance(source, bytes):
        whole.update(source)
        return whole.hexdigest()
    with source.open("rb") as file:
        while block := file.read(BLOCK):
            whole.update(block)
    return whole.hexdigest()


@contextmanager
def quiet() -> Iterator[None]:
    """Without the bars of `huggingface_hub`: progress is told here."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()
