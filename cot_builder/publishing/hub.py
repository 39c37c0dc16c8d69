"""Access to one repository of the Hub: inspect it, find differences, push one guarded commit."""

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
"""Number of files in one upload, after which the progress line moves."""
BLOCK = 2**20
SHOWN = 3
README = "README.md"
HUB_FILES = {".gitattributes", README}
"""Files that the Hub itself writes into a new repository; its README has metadata and no text."""


class RemoteFile(NamedTuple):
    """A file in a repository."""

    size: int
    sha256: str | None
    """Hash of a large file (LFS); None for a file that git stores."""
    blob: str
    """git blob hash of a file that git stores."""


class Remote(NamedTuple):
    """State of a repository when it was inspected."""

    head: str | None
    """Its last commit; None if the repository does not exist."""
    files: Mapping[str, RemoteFile]
    private: bool = False


class Commit(NamedTuple):
    """A pushed commit or pull request."""

    revision: str
    """Revision to load it by."""
    url: str
    pull_request: bool


class RepoState(NamedTuple):
    """State of a repository and its manifest before anything is sent."""

    hub: "Hub | None"
    remote: Remote | None
    """None if the Hub could not be asked."""
    state: dict[str, Any] | None
    """Manifest of the published version; None if nothing is published or the Hub could not be asked."""
    note: str
    """Reason why the Hub could not be asked."""


def inspect_repo(repo: str, kind: Kind, *, pull_request: bool, private: bool, parent: str, offline: bool) -> RepoState:
    """Inspect the repository to publish to and check the options against it.

    Args:
        repo: ``OWNER/NAME``.
        kind: Kind of the repository.
        pull_request: Propose a pull request; the repository must exist.
        private: Create the repository as private; an existing one must be private.
        parent: Commit that must still be the head; empty for any.
        offline: Continue without a token or a connection, for a dry run.

    Raises:
        UnreachableError: there is no token, or no connection, and ``offline`` is not set.
        IndusCotError: the Hub refuses; the repository belongs to another project or contradicts the options.
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
    """One repository, accessed with one account.

    Raises:
        UnreachableError: there is no token, or no connection.
        IndusCotError: the name is invalid, or the Hub rejects the token.
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
                f"{self.repo!r} is not a repository name; write --repo OWNER/NAME with your account or organisation"
            )
        token = get_token()
        if not token:
            raise UnreachableError(
                "not logged in to the Hub: run `hf auth login`, or set HF_TOKEN, with a token that has write access "
                "(huggingface.co/settings/tokens)"
            )
        self._api: Any = HfApi(token=token)
        self._call(self._api.whoami)

    @property
    def _repo_arguments(self) -> dict[str, Any]:
        return {"repo_id": self.repo, "repo_type": self.kind}

    def inspect(self) -> Remote:
        """Read the head and the files of the repository.

        Raises:
            IndusCotError: the name belongs to a repository of the other kind.
        """
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            info = self._call(lambda: self._api.repo_info(**self._repo_arguments))
            return Remote(info.sha, self.list_files(info.sha), bool(info.private))
        except RepositoryNotFoundError:
            other: Kind = "model" if self.kind == "dataset" else "dataset"
            if self._call(lambda: self._api.repo_exists(self.repo, repo_type=other)):
                raise IndusCotError(
                    f"{self.repo}: a {other} of this name exists on the Hub, and a {self.kind} could be taken for it; "
                    "choose another name with --repo"
                ) from None
            return Remote(None, {})

    def list_files(self, revision: str, committed: str = "") -> dict[str, RemoteFile]:
        """List every file at a revision; ``committed`` as in :func:`call_hub`.

        Raises:
            NotFoundError: the revision does not exist.
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
            return self._call(list_tree, committed)
        except RevisionNotFoundError:
            raise NotFoundError(
                f"{self.repo}: has no revision {short_revision(revision)}; {committed or 'run again'}"
            ) from None

    def read_manifest(self, remote: Remote) -> dict[str, Any] | None:
        """Read the manifest, which proves that this command may change the repository; None if nothing is published.

        Raises:
            IndusCotError: another project owns the repository, or its manifest is damaged.
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
                f"{self.repo}: indus-cot did not publish this {self.kind} and would overwrite it; it holds {named}. "
                "Choose another name with --repo"
            )
        return None

    def check_options(self, remote: Remote, private: bool, pull_request: bool, parent: str) -> None:
        """Check the options against the repository, before anything is sent.

        Raises:
            IndusCotError: the head is not ``parent``; the repository is public although ``private`` is set; it does not
                exist although ``pull_request`` is set.
        """
        if parent and remote.head is None:
            raise IndusCotError(
                f"{self.repo} does not exist, so {parent[:8]} cannot be its head; publish without --parent first"
            )
        if parent and remote.head is not None and not remote.head.startswith(parent):
            raise IndusCotError(
                f"{self.repo}: its head is {remote.head[:8]}, not {parent[:8]}: somebody has "
                "committed since. Check that commit, then publish on top of the new head"
            )
        if remote.head is None and pull_request:
            raise IndusCotError(
                f"{self.repo} does not exist, so a pull request is not possible; publish without --pr first"
            )
        if remote.head is not None and private and not remote.private:
            raise IndusCotError(
                f"{self.repo} exists and is public, and --private does not change that; nothing was sent. Make it "
                "private in its settings on the Hub, or leave --private out"
            )

    def _create(self, private: bool) -> Remote:
        """Create the repository; an existing one of the same kind is used as it is.

        Raises:
            IndusCotError: somebody else has created it meanwhile, and it is public or not empty.
        """
        self._call(lambda: self._api.create_repo(**self._repo_arguments, private=private or None, exist_ok=True))
        made = self.inspect()
        self.check_options(made, private, False, "")
        if self.read_manifest(made) is not None:
            raise IndusCotError(
                f"{self.repo}: somebody else has published to it since it was inspected; nothing was overwritten. "
                "Check that version, then publish again"
            )
        return made

    def fetch(self, path: str, revision: str) -> Path:
        """Download a file of the repository.

        Raises:
            IndusCotError: the file does not exist.
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
                f"{self.repo}: {path} is missing, although it was published; restore it from an earlier commit"
            ) from None

    def _validate_card(self, card: str) -> None:
        """Let the Hub validate the metadata of a card.

        Raises:
            IndusCotError: the metadata is invalid.
        """
        from huggingface_hub import RepoCard

        def faults() -> str:
            try:
                RepoCard(card).validate(repo_type=self.kind)
            except ValueError as error:
                return str(error)
            return ""

        # Catch the error inside: `call_hub` would reduce it to its status 400.
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
        """Create the repository if needed, and push what differs from ``remote``.

        Args:
            files: All files of the publication, including the card.
            changed: Files that differ.
            gone: Paths to delete.
            remote: State of the repository when it was inspected.
            title: Title of the commit.
            private: As in :func:`inspect_repo`, for a new repository.
            pull_request: Propose a pull request.
            tag: Tag that the commit gets afterwards; empty for none.

        Raises:
            IndusCotError: the card is invalid; the Hub refuses; another commit has the tag; somebody else has committed
                or created the repository since it was inspected.
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
        """Push one commit on top of ``remote``. Large files go first, so an interrupted push keeps the uploaded ones.

        An open pull request with the same content is reused, because its response may have been lost.

        Raises:
            IndusCotError: somebody else has committed since ``remote`` was inspected; the Hub refuses.
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
                    unknown="it is unknown whether the commit succeeded; run the same command again, which checks it",
                )
            except HfHubHTTPError as error:
                if error.response.status_code != 412:
                    raise
                now = self.inspect()
                # The response to a successful commit may be lost; then the repository holds our files.
                if find_changed_files(changed, now.files) or any(path in now.files for path in deleted):
                    raise IndusCotError(
                        f"{self.repo}: somebody else has committed since it was inspected ({(remote.head or '')[:8]}, "
                        f"now {(now.head or '')[:8]}); nothing was overwritten. Run `indus-cot diff`, then publish "
                        "again"
                    ) from None
                return Commit(now.head or "main", f"{self._url}/commit/{now.head}", False)

    @property
    def _url(self) -> str:
        return f"{self._api.endpoint}/{'datasets/' if self.kind == 'dataset' else ''}{self.repo}"

    def _find_open_pull_request(
        self, changed: Mapping[str, Path | bytes], deleted: list[str], title: str
    ) -> Commit | None:
        """Find an open pull request with this title and the same content."""
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
        """Check that the tag does not exist yet.

        Raises:
            IndusCotError: the tag exists.
        """
        if found := self._find_tag(name):
            raise IndusCotError(
                f"{self.repo}: another commit, {found[:8]}, has the tag {name}; nothing was sent. Delete that tag "
                "first, or leave --tag out"
            )

    def _find_tag(self, name: str, committed: str = "") -> str | None:
        refs = self._call(lambda: self._api.list_repo_refs(**self._repo_arguments), committed)
        return next((item.target_commit for item in refs.tags if item.name == name), None)

    def tag(self, name: str, revision: str) -> bool:
        """Tag a commit; returns False if it has the tag already.

        Raises:
            IndusCotError: another commit has the tag.
        """
        commit = short_revision(revision)
        committed = f"{commit} is committed, without the tag {name}: run the same command again, which sets it"
        if found := self._find_tag(name, committed):
            if found == revision:
                return False
            raise IndusCotError(f"{self.repo}: another commit, {found[:8]}, has the tag {name}; delete it there first")
        self._call(lambda: self._api.create_tag(**self._repo_arguments, tag=name, revision=revision), committed)
        return True

    def _call(self, action: Callable[[], T], committed: str = "", unknown: str = "") -> T:
        return call_hub(action, self.repo, committed, unknown)


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
    """Error messages of the Hub's answer about a card, which is JSON or plain text."""
    try:
        return "; ".join(item["message"] for item in json.loads(answer)["errors"])
    except (ValueError, TypeError, KeyError):
        return (answer.strip().splitlines() or ["no reason given"])[0]


def find_changed_files(wanted: Mapping[str, Path | bytes], there: Mapping[str, RemoteFile]) -> dict[str, Path | bytes]:
    """Files that are missing in the repository or have other content there."""
    return {
        path: source
        for path, source in wanted.items()
        if path not in there or not _has_same_content(source, there[path])
    }


def size_of(source: Path | bytes) -> int:
    """Size of a file, bytes."""
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
