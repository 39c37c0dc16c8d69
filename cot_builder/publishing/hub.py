"""The door to the Hub: what is there, what differs, one guarded commit; every refusal in words that say what to do."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cot_builder.progress import track
from cot_builder.publishing.manifest import MANIFEST, NotFoundError, parse_manifest
from cot_builder.publishing.retry import T, UnreachableError, call_hub, hide_hub_progress
from schemas.errors import IndusCotError

Kind = Literal["dataset", "model"]
UPLOAD_GROUP = 32
"""Files that are uploaded before progress is told."""
BLOCK = 2**20
SHOWN = 3
README = "README.md"
HUB_FILES = {".gitattributes", README}
"""What the Hub itself writes into a new repository; its card has metadata and no word."""


class RemoteFile(NamedTuple):
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
    files: Mapping[str, RemoteFile]
    private: bool = False


class Commit(NamedTuple):
    """What was pushed."""

    revision: str
    """To load it back by."""
    url: str
    pull_request: bool


class RepoState(NamedTuple):
    """What a publication finds before it sends anything."""

    hub: "Hub | None"
    remote: Remote | None
    """None where the Hub was not asked."""
    state: dict[str, Any] | None
    """The manifest of what is there; None where nothing is, or nobody asked."""
    note: str
    """Why the Hub was not asked."""


def inspect_repo(repo: str, kind: Kind, *, pull_request: bool, private: bool, parent: str, offline: bool) -> RepoState:
    """Look at a repository that is to be published to.

    Args:
        repo: ``OWNER/NAME``.
        kind: Of the repository.
        pull_request: It is to be proposed to, so it must be there.
        private: It is to be private; one that is there must be.
        parent: Commit that must still be its head, where one is given.
        offline: Go on without a token or a connection, for a dry run.

    Raises:
        UnreachableError: there is no token, or no connection, and ``offline`` is not set.
        IndusCotError: the Hub refuses; the repository is somebody else's, or not as it is asked for.
    """
    try:
        hub = Hub(repo, kind)
        remote = hub.inspect()
    except UnreachableError as error:
        if not offline:
            raise
        return RepoState(None, None, None, str(error))
    hub.check_options(remote, private, pull_request, parent)
    return RepoState(hub, remote, hub.read_manifest(remote), "")


class Hub:
    """One repository, seen with one account.

    Raises:
        UnreachableError: there is no token, or no connection.
        IndusCotError: it is no name, or the Hub does not know the token.
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
            raise UnreachableError(
                "the Hub wants to know who you are: run `hf auth login`, or set HF_TOKEN, with a token that may write "
                "(huggingface.co/settings/tokens)"
            )
        self._api: Any = HfApi(token=token)
        self._call(self._api.whoami)

    @property
    def _repo_arguments(self) -> dict[str, Any]:
        return {"repo_id": self.repo, "repo_type": self.kind}

    def inspect(self) -> Remote:
        """The repository's head and its files.

        Raises:
            IndusCotError: there is none, and its name is that of a repository of the other kind.
        """
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            info = self._call(lambda: self._api.repo_info(**self._repo_arguments))
            return Remote(info.sha, self.list_files(info.sha), bool(info.private))
        except RepositoryNotFoundError:
            other: Kind = "model" if self.kind == "dataset" else "dataset"
            if self._call(lambda: self._api.repo_exists(self.repo, repo_type=other)):
                raise IndusCotError(
                    f"{self.repo}: is a {other} on the Hub, and a {self.kind} of the same name would be taken for it; "
                    "choose another name with --repo"
                ) from None
            return Remote(None, {})

    def list_files(self, revision: str, stands: str = "") -> dict[str, RemoteFile]:
        """Every file at a revision; ``stands`` as :func:`call_hub`.

        Raises:
            NotThereError: there is no such revision.
        """
        from huggingface_hub.errors import RevisionNotFoundError
        from huggingface_hub.hf_api import RepoFile

        def list_tree() -> dict[str, RemoteFile]:
            tree = self._api.list_repo_tree(**self._repo_arguments, revision=revision, recursive=True)
            return {
                item.path: RemoteFile(item.size, item.lfs.sha256 if item.lfs else None, item.blob_id)
                for item in tree
                if isinstance(item, RepoFile)
            }

        try:
            return self._call(list_tree, stands)
        except RevisionNotFoundError:
            raise NotFoundError(
                f"{self.repo}: has no revision {short_revision(revision)}; {stands or 'run again'}"
            ) from None

    def read_manifest(self, remote: Remote) -> dict[str, Any] | None:
        """The manifest of what is there, which says that it is this command's to change; None where nothing is.

        Raises:
            IndusCotError: it is somebody else's, or its manifest is damaged.
        """
        if remote.head is None:
            return None
        if MANIFEST in remote.files:
            found = parse_manifest(self.fetch(MANIFEST, remote.head).read_bytes(), self.repo)
            if found["kind"] == self.kind:
                return found
        strangers = sorted(remote.files.keys() - HUB_FILES)
        if README in remote.files and _has_text(self.fetch(README, remote.head).read_bytes()):
            strangers.append(README)
        if strangers:
            named = ", ".join(strangers[:SHOWN]) + (" …" if len(strangers) > SHOWN else "")
            raise IndusCotError(
                f"{self.repo}: is no {self.kind} that indus-cot published, and would be overwritten; it holds {named}. "
                "Choose another name with --repo"
            )
        return None

    def check_options(self, remote: Remote, private: bool, pull_request: bool, parent: str) -> None:
        """Hold what is there against what is asked for, before anything is sent.

        Raises:
            IndusCotError: somebody has committed since ``parent``; it is public and was to be private; nothing is there
                that a pull request could be made to.
        """
        if parent and remote.head is None:
            raise IndusCotError(
                f"{self.repo}: is not there, so {parent[:8]} cannot be its head; publish without --parent first"
            )
        if parent and remote.head is not None and not remote.head.startswith(parent):
            raise IndusCotError(
                f"{self.repo}: its head is {remote.head[:8]}, not {parent[:8]}: somebody has "
                "committed since. Look at what is there, then publish on top of the new head"
            )
        if remote.head is None and pull_request:
            raise IndusCotError(
                f"{self.repo}: is not there, so nothing can be proposed to it; publish without --pr first"
            )
        if remote.head is not None and private and not remote.private:
            raise IndusCotError(
                f"{self.repo}: is there and public, and --private does not change that; nothing was sent. Make it "
                "private in its settings on the Hub, or leave --private out"
            )

    def _create(self, private: bool) -> Remote:
        """Make the repository; one of the same kind that is there already is taken as it is.

        Raises:
            IndusCotError: it was made by somebody else meanwhile, and is public or holds something.
        """
        self._call(lambda: self._api.create_repo(**self._repo_arguments, private=private or None, exist_ok=True))
        made = self.inspect()
        self.check_options(made, private, False, "")
        if self.read_manifest(made) is not None:
            raise IndusCotError(
                f"{self.repo}: somebody else has published to it since it was looked at; nothing was overwritten. Look "
                "at what is there, then publish again"
            )
        return made

    def fetch(self, path: str, revision: str) -> Path:
        """A file of the repository, downloaded.

        Raises:
            IndusCotError: it is not there.
        """
        from huggingface_hub.errors import HfHubHTTPError

        try:
            with hide_hub_progress():
                return Path(
                    self._call(
                        lambda: self._api.hf_hub_download(self.repo, path, repo_type=self.kind, revision=revision)
                    )
                )
        except HfHubHTTPError:
            raise IndusCotError(
                f"{self.repo}: has no {path} any more, which it had when it was published; put it back there from an "
                "earlier commit"
            ) from None

    def _validate_card(self, card: str) -> None:
        """Let the Hub check the metadata of a card.

        Raises:
            IndusCotError: it finds a fault.
        """
        from huggingface_hub import RepoCard

        def faults() -> str:
            try:
                RepoCard(card).validate(repo_type=self.kind)
            except ValueError as error:
                return str(error)
            return ""

        # Asked inside: what comes out of `call_hub` is no more than the 400 behind it.
        if found := self._call(faults):
            raise IndusCotError(
                f"{self.repo}: the Hub refuses the metadata of the card, README.md: {_parse_card_errors(found)}"
            )

    def commit(
        self,
        files: Mapping[str, Path | bytes],
        changed: Mapping[str, Path | bytes],
        deleted: list[str],
        remote: Remote,
        title: str,
        *,
        private: bool,
        pull_request: bool,
        tag: str,
    ) -> Commit:
        """Make the repository where it is not there, and push what differs from ``remote``, what was looked at.

        Args:
            files: Everything that is to be there, the card among them.
            changed: What of it differs.
            gone: What is there and is not to be.
            remote: What was looked at.
            title: Of the commit.
            private: As :func:`inspect_repo`, for a repository that is made.
            pull_request: Propose it.
            tag: What the commit is to be named afterwards, where it is.

        Raises:
            IndusCotError: the Hub finds a fault in the card, or refuses; another commit has the tag; somebody else has
                committed, or has made the repository, since it was looked at.
        """
        card = files[README]
        assert isinstance(card, bytes)
        self._validate_card(card.decode())
        if remote.head is None:
            remote = self._create(private)
            changed = find_changed_files(files, remote.files)
        elif tag:
            self.check_tag_is_free(tag)
        return self.push(changed, deleted, remote, title, pull_request)

    def push(
        self, changed: Mapping[str, Path | bytes], deleted: list[str], remote: Remote, message: str, pull_request: bool
    ) -> Commit:
        """One commit on top of ``remote``. Large files go first: what arrived of an interrupted push is kept.

        A pull request that is open and proposes the same is not made twice: the answer to it may have been lost.

        Raises:
            IndusCotError: somebody else has committed since ``remote`` was looked at; the Hub refuses.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete
        from huggingface_hub.errors import HfHubHTTPError

        adds = [
            CommitOperationAdd(path, source if isinstance(source, bytes) else str(source))
            for path, source in sorted(changed.items())
        ]
        if pull_request and (open_already := self._find_open_pull_request(changed, deleted, message)):
            return open_already
        asked = False

        def commit() -> Commit:
            nonlocal asked
            if asked and pull_request and (taken := self._find_open_pull_request(changed, deleted, message)):
                return taken
            asked = True
            done = self._api.create_commit(
                **self._repo_arguments,
                operations=[*adds, *(CommitOperationDelete(path) for path in deleted)],
                commit_message=message,
                parent_commit=remote.head,
                create_pr=pull_request,
            )
            return Commit(done.pr_revision or done.oid, done.pr_url or done.commit_url, bool(done.pr_url))

        with hide_hub_progress():
            groups = [adds[start : start + UPLOAD_GROUP] for start in range(0, len(adds), UPLOAD_GROUP)]
            for group in track(groups, f"upload to {self.repo} ({UPLOAD_GROUP} files each)", len(groups)):
                self._call(lambda group=group: self._api.preupload_lfs_files(  # type: ignore[misc]
                    self.repo, group, repo_type=self.kind, create_pr=pull_request, free_memory=False
                ))  # fmt: skip
            try:
                return self._call(
                    commit,
                    unsure="whether it was committed is not known: run the same command again, which looks and goes on",
                )
            except HfHubHTTPError as error:
                if error.response.status_code != 412:
                    raise
                now = self.inspect()
                # The answer to a commit that was taken may be lost on its way: then what is there is ours.
                if find_changed_files(changed, now.files) or any(path in now.files for path in deleted):
                    raise IndusCotError(
                        f"{self.repo}: somebody else has committed since it was looked at ({(remote.head or '')[:8]}, "
                        f"now {(now.head or '')[:8]}); nothing was overwritten. Look at `indus-cot diff`, then publish "
                        "again"
                    ) from None
                return Commit(now.head or "main", f"{self._url}/commit/{now.head}", False)

    @property
    def _url(self) -> str:
        return f"{self._api.endpoint}/{'datasets/' if self.kind == 'dataset' else ''}{self.repo}"

    def _find_open_pull_request(
        self, changed: Mapping[str, Path | bytes], deleted: list[str], title: str
    ) -> Commit | None:
        """An open pull request of this title that makes the same of the repository."""
        found = self._call(
            lambda: list(
                self._api.get_repo_discussions(
                    **self._repo_arguments, discussion_type="pull_request", discussion_status="open"
                )
            )
        )
        for item in found:
            revision = f"refs/pr/{item.num}"
            if item.is_pull_request and item.title == title:
                try:
                    files = self.list_files(revision)
                except NotFoundError:
                    continue
                if not find_changed_files(changed, files) and not any(path in files for path in deleted):
                    return Commit(revision, f"{self._url}/discussions/{item.num}", True)
        return None

    def check_tag_is_free(self, name: str) -> None:
        """Before a commit that is to have it.

        Raises:
            IndusCotError: there is one already.
        """
        if found := self._find_tag(name):
            raise IndusCotError(
                f"{self.repo}: another commit, {found[:8]}, has the tag {name}; nothing was sent. Delete it there "
                "first, or leave --tag out"
            )

    def _find_tag(self, name: str, stands: str = "") -> str | None:
        refs = self._call(lambda: self._api.list_repo_refs(**self._repo_arguments), stands)
        return next((item.target_commit for item in refs.tags if item.name == name), None)

    def tag(self, name: str, revision: str) -> bool:
        """Name a commit; False where it has the name already.

        Raises:
            IndusCotError: another commit has it.
        """
        commit = short_revision(revision)
        stands = f"{commit} is committed, without the tag {name}: run the same command again, which sets it"
        if found := self._find_tag(name, stands):
            if found == revision:
                return False
            raise IndusCotError(f"{self.repo}: another commit, {found[:8]}, has the tag {name}; delete it there first")
        self._call(lambda: self._api.create_tag(**self._repo_arguments, tag=name, revision=revision), stands)
        return True

    def _call(self, action: Callable[[], T], stands: str = "", unsure: str = "") -> T:
        return call_hub(action, self.repo, stands, unsure)


def not_compared_message(revision: str) -> str:
    """What stands where a commit was made and could not be compared."""
    return (
        f"it is committed as {short_revision(revision)}, but was not compared: run the same command again, which does"
    )


def short_revision(revision: str) -> str:
    """A commit as people name it; a pull request's revision as it is."""
    return revision if revision.startswith("refs/") else revision[:8]


def _has_text(card: bytes) -> bool:
    """Whether a card has a word beside its metadata, which the Hub writes where a licence was chosen."""
    return bool(re.sub(rb"\A\s*---\n.*?^---\s*$", b"", card, flags=re.DOTALL | re.MULTILINE).strip())


def _parse_card_errors(answer: str) -> str:
    """The faults in what the Hub answers about a card: JSON, or plain text."""
    try:
        return "; ".join(item["message"] for item in json.loads(answer)["errors"])
    except (ValueError, TypeError, KeyError):
        return (answer.strip().splitlines() or ["it does not say why"])[0]


def find_changed_files(wanted: Mapping[str, Path | bytes], there: Mapping[str, RemoteFile]) -> dict[str, Path | bytes]:
    """Which of the wanted files are not there with the same content."""
    return {
        path: source
        for path, source in wanted.items()
        if path not in there or not _has_same_content(source, there[path])
    }


def size_of(source: Path | bytes) -> int:
    """Bytes of a file."""
    return len(source) if isinstance(source, bytes) else source.stat().st_size


def _has_same_content(source: Path | bytes, held: RemoteFile) -> bool:
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
