"""A simulated Hub on loopback: repositories, large files, commits, pull requests, tags, permissions, and faults.

It serves from memory the requests that `huggingface_hub` and `datasets` send when a corpus is published and loaded. It
does not prove that the real Hub behaves the same: docs/explanation/publishing.md lists the differences.
"""

import base64
import contextlib
import hashlib
import io
import json
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import yaml
from flask import Flask, Response, jsonify, request, send_file
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

OWNER, READER = "hf_ownerownerownerowner", "hf_readerreaderreader"
TOKENS = {OWNER: ("owner", "write"), READER: ("reader", "read")}
LARGE = (".parquet", ".png", ".safetensors")
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE"]
DATE = "2026-01-01T00:00:00.000Z"
Files = dict[str, dict[str, Any]]


@dataclass
class Repository:
    """A repository: its commits by id, newest last, and its branches and tags."""

    kind: str
    name: str
    private: bool
    commits: dict[str, Files] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    proposals: dict[int, str] = field(default_factory=dict)
    """Titles of the open pull requests, by number."""

    def add(self, files: Files, ref: str = "main") -> str:
        """Add a commit at ``ref``, and return its id."""
        # Include the content in the id: a client's cache assumes that equal ids have equal files.
        text = json.dumps([self.kind, self.name, len(self.commits), files], sort_keys=True)
        oid = hashlib.sha1(text.encode()).hexdigest()
        self.commits[oid] = files
        self.refs[ref] = oid
        return oid

    def find(self, revision: str) -> str | None:
        """Return the commit id of a branch, a tag or a commit id."""
        oid = self.refs.get(revision) or self.tags.get(revision) or revision
        return oid if oid in self.commits else None


@dataclass
class Fault:
    """An error response to the next ``times`` requests of a path."""

    part: str
    status: int
    times: int
    after: int
    retry_after: str
    when: str


class _Silent(WSGIRequestHandler):
    def log_request(self, *_: Any) -> None:
        """Log nothing: a test sends thousands of requests."""


class HubServer:
    """Serves until :meth:`close`; ``url`` is the endpoint."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large: dict[str, bytes] = {}
        self.uploads: list[int] = []
        """Sizes of the uploaded large files, in order."""
        self.seen: list[str] = []
        """Method and path of every request."""
        self.faults: list[Fault] = []
        self.before_create: Callable[[], object] = lambda: None
        self.before_commit: Callable[[], object] = lambda: None
        self.after_commit: Callable[[], object] = lambda: None
        self.card_fault = ""
        """Error message for the metadata of every card."""
        self._blobs: dict[str, bytes] = {}
        app = Flask(__name__)
        app.add_url_rule("/", "any", self._answer, defaults={"_": ""}, methods=METHODS)
        app.add_url_rule("/<path:_>", "any", self._answer, methods=METHODS)
        self._server: BaseWSGIServer = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Silent)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._thread.join()

    def fail(
        self, part: str, status: int, times: int = 1, after: int = 0, retry_after: str = "", when: str = ""
    ) -> None:
        """Answer ``status`` to requests whose path contains ``part``, after ``after`` of them; 0 closes the connection.

        By default the request is not executed. With ``when`` `half`, the server reads half of the request's body first;
        with `done`, it executes the request, so that only the response is lost.
        """
        self.faults.append(Fault(part, status, times, after, retry_after, when))

    def repository(self, name: str, kind: str = "datasets") -> Repository:
        """Return an existing repository."""
        return self.repositories[kind, name]

    def make(self, name: str, kind: str = "datasets", private: bool = False) -> Repository:
        """Create a repository with one empty commit."""
        created = self.repositories[kind, name] = Repository(kind, name, private)
        created.add({})
        return created

    def files(self, name: str, kind: str = "datasets", revision: str = "main") -> dict[str, bytes]:
        """Return the content of every file at a revision."""
        repository = self.repository(name, kind)
        oid = repository.find(revision)
        assert oid is not None
        return {path: self._content(item) for path, item in repository.commits[oid].items()}

    def put(self, name: str, path: str, data: bytes, kind: str = "datasets") -> str:
        """Commit one file, as another user would."""
        repository = self.repository(name, kind)
        return repository.add({**repository.commits[repository.refs["main"]], path: self._store_blob(data)})

    def alter(self, name: str, path: str, data: bytes, kind: str = "datasets") -> None:
        """Replace the bytes of a large file without a commit."""
        repository = self.repository(name, kind)
        digest = hashlib.sha256(data).hexdigest()
        self.large[digest] = data
        entry = {"oid": digest[:40], "size": len(data), "lfs": {"oid": digest, "size": len(data), "pointerSize": 134}}
        repository.commits[repository.refs["main"]][path] = entry

    def _store_blob(self, data: bytes) -> dict[str, Any]:
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        self._blobs[blob] = data
        return {"oid": blob, "size": len(data)}

    def _content(self, item: dict[str, Any]) -> bytes:
        return self.large[item["lfs"]["oid"]] if "lfs" in item else self._blobs[item["oid"]]

    # --- requests -----------------------------------------------------------------------------------

    def _answer(self, _: str) -> Any:
        raw = request.environ.get("RAW_URI") or request.environ["REQUEST_URI"]
        path = raw.partition("?")[0]
        self.seen.append(f"{request.method} {path}")
        for fault in self.faults:
            if fault.part in f"{request.method} {path}" and fault.times:
                if fault.after:
                    fault.after -= 1
                    break
                fault.times -= 1
                if fault.when == "half":
                    assert request.content_length and len(request.stream.read(request.content_length // 2))
                elif fault.when == "done":
                    self._execute(path)
                else:
                    request.get_data()
                if not fault.status:
                    request.environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
                    return Response(status=500)
                headers = {"Retry-After": fault.retry_after} if fault.retry_after else {}
                return Response("refused", fault.status, headers)
        return self._execute(path)

    def _execute(self, path: str) -> Any:
        parts = [unquote(part) for part in path.strip("/").split("/")]
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        user, role = TOKENS.get(given, ("", ""))
        if given and not user:
            return _error(401, "", "Invalid credentials in Authorization header")
        if parts[0] == "_lfs":
            return self._large(parts[1])
        if parts[0] == "api":
            return self._api(parts[1:], user, role)
        if parts[-1] == "batch":
            return self._batch()
        return self._resolve(parts, user)

    def _api(self, parts: list[str], user: str, role: str) -> Any:  # noqa: PLR0912 - one branch per path
        if parts[0] == "whoami-v2":
            if not user:
                return _error(401, "", "Invalid username or password.")
            return jsonify(name=user, type="user", orgs=[], auth={"accessToken": {"role": role}})
        if parts[0] == "validate-yaml":
            found = yaml.safe_load(request.json["content"].split("---")[1]) or {}
            errors = [] if found.get("license") else [{"message": '"license" is required'}]
            errors += [{"message": self.card_fault}] if self.card_fault else []
            return jsonify(errors=errors, warnings=[]), 400 if errors else 200
        if parts[:2] == ["repos", "create"]:
            return self._create(user, role)
        if parts[:2] == ["repos", "delete"]:
            asked = request.json
            del self.repositories[
                f"{asked.get('type') or 'model'}s", f"{asked.get('organization') or user}/{asked['name']}"
            ]
            return jsonify({})
        kind, name, *rest = parts[0], "/".join(parts[1:3]), *parts[3:]
        repository = self.repositories.get((kind, name))
        if repository is None or (repository.private and user != "owner"):
            return _error(404, "RepoNotFound", "Repository not found")
        what, revision = (rest[0] if rest else "revision"), (rest[1] if len(rest) > 1 else "main")
        if what == "refs":
            return jsonify(
                branches=[_ref(name, oid, "heads") for name, oid in repository.refs.items() if name == "main"],
                tags=[_ref(name, oid, "tags") for name, oid in repository.tags.items()],
                converts=[],
            )
        if what == "discussions":
            return jsonify(_discussions(repository))
        oid = repository.find(revision)
        if oid is None:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if what == "commits":
            known = [*repository.commits][: [*repository.commits].index(oid) + 1]
            return jsonify(
                [{"id": name, "title": "", "message": "", "authors": [], "date": DATE} for name in reversed(known)]
            )
        if what in ("preupload", "commit", "tag") and (user != name.partition("/")[0] or role != "write"):
            return _error(403, "", "Forbidden: you don't have the right to write")
        if what == "revision":
            return jsonify(_info(repository, oid))
        if what == "tree":
            return self._tree(repository.commits[oid], "/".join(rest[2:]))
        if what == "paths-info":
            paths = request.form.getlist("paths") or (request.json or {}).get("paths", [])
            files = repository.commits[oid]
            return jsonify([{"type": "file", "path": path, **files[path]} for path in paths if path in files])
        if what == "preupload":
            wanted = request.json["files"]
            modes = ["lfs" if item["path"].endswith(LARGE) else "regular" for item in wanted]
            return jsonify(
                files=[
                    {"path": item["path"], "uploadMode": mode, "shouldIgnore": False}
                    for item, mode in zip(wanted, modes, strict=True)
                ]
            )
        if what == "tag":
            tag = request.json["tag"]
            if tag in repository.tags:
                return _error(409, "", "Tag reference exists already")
            repository.tags[tag] = oid
            return jsonify({})
        if what == "commit":
            return self._commit(repository)
        return _error(404, "EntryNotFound", f"the simulated Hub does not know {what!r}")

    def _create(self, user: str, role: str) -> Any:
        self.before_create()
        asked = request.json
        owner = asked.get("organization") or user
        if role != "write" or owner != user:
            return _error(403, "", f"You don't have the rights to create a {asked['type']} under the namespace {owner}")
        kind, name = f"{asked.get('type') or 'model'}s", f"{owner}/{asked['name']}"
        url = f"{self.url}/{'' if kind == 'models' else f'{kind}/'}{name}"
        if (kind, name) in self.repositories:
            return jsonify(error="You already created this repo", url=url), 409
        self.make(name, kind, asked.get("private") or asked.get("visibility") == "private")
        return jsonify(url=url, name=name, id=name)

    def _tree(self, files: Files, folder: str) -> Any:
        inside = {path: item for path, item in files.items() if not folder or path.startswith(f"{folder}/")}
        if folder and not inside:
            return _error(404, "EntryNotFound", f"{folder} does not exist")
        deep = request.args.get("recursive", "").lower() in ("1", "true")
        start = len(folder) + 1 if folder else 0
        found = [
            {"type": "file", "path": path, **item}
            for path, item in sorted(inside.items())
            if deep or "/" not in path[start:]
        ]
        folders = {
            path[:end]
            for path in inside
            for end in _find_slashes(path, start)
            if deep or end == _find_slashes(path, start)[0]
        }
        return jsonify(
            [{"type": "directory", "oid": "0" * 40, "size": 0, "path": name} for name in sorted(folders)] + found
        )

    def _commit(self, repository: Repository) -> Any:
        self.before_commit()
        head = repository.refs["main"]
        files, title = dict(repository.commits[head]), ""
        for line in request.get_data().splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header" and value.get("parentCommit", head) != head:
                return _error(412, "", "A commit has happened since. Please refresh and try again.")
            if item["key"] == "header":
                title = value["summary"]
            if item["key"] == "file":
                files[value["path"]] = self._store_blob(base64.b64decode(value["content"]))
            if item["key"] == "lfsFile":
                if value["oid"] not in self.large:
                    return _error(400, "", f"large file {value['oid']} was not uploaded")
                pointer = {"oid": value["oid"], "size": value["size"], "pointerSize": 134}
                files[value["path"]] = {
                    "oid": hashlib.sha1(value["oid"].encode()).hexdigest(),
                    "size": value["size"],
                    "lfs": pointer,
                }
            if item["key"] == "deletedFile":
                files.pop(value["path"])
        location = f"{'' if repository.kind == 'models' else 'datasets/'}{repository.name}"
        if request.args.get("create_pr") == "1":
            number = sum(name.startswith("refs/pr/") for name in repository.refs) + 1
            oid = repository.add(files, f"refs/pr/{number}")
            repository.proposals[number] = title
            url = {"pullRequestUrl": f"{self.url}/{location}/discussions/{number}"}
        else:
            oid, url = repository.add(files), {}
        self.after_commit()
        return jsonify(
            success=True, commitOid=oid, commitUrl=f"{self.url}/{location}/commit/{oid}", hookOutput="", **url
        )

    def _batch(self) -> Any:
        found = []
        for item in request.get_json(force=True)["objects"]:
            actions = {"upload": {"href": f"{self.url}/_lfs/{item['oid']}"}}
            found.append({**item, **({} if item["oid"] in self.large else {"actions": actions})})
        return Response(json.dumps({"transfer": "basic", "objects": found}), mimetype="application/vnd.git-lfs+json")

    def _large(self, oid: str) -> Any:
        data = request.get_data()
        if hashlib.sha256(data).hexdigest() != oid:
            return Response("sha256 differs", 400)
        self.large[oid] = data
        self.uploads.append(len(data))
        return Response(status=200)

    def _resolve(self, parts: list[str], user: str) -> Any:
        kind = parts.pop(0) if parts[0] == "datasets" else "models"
        repository = self.repositories.get((kind, "/".join(parts[:2])))
        if repository is None or len(parts) < 5 or (repository.private and user != "owner"):
            return _error(404, "RepoNotFound", "Repository not found")
        oid, path = repository.find(parts[3]), "/".join(parts[4:])
        if oid is None:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {parts[3]}")
        item = repository.commits[oid].get(path)
        if item is None:
            return _error(404, "EntryNotFound", "Entry not found")
        etag = item.get("lfs", item)["oid"]
        answer = send_file(io.BytesIO(self._content(item)), "application/octet-stream", etag=etag, conditional=True)
        answer.headers |= {"X-Repo-Commit": oid, "Accept-Ranges": "bytes"}
        if "lfs" in item:
            answer.headers |= {"X-Linked-Size": str(item["size"]), "X-Linked-Etag": f'"{etag}"'}
        return answer


def _find_slashes(path: str, start: int) -> list[int]:
    return [index for index in range(start, len(path)) if path[index] == "/"]


def _ref(name: str, oid: str, kind: str) -> dict[str, str]:
    return {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid}


def _info(repository: Repository, oid: str) -> dict[str, Any]:
    files = [{"rfilename": path} for path in sorted(repository.commits[oid])]
    return {
        "_id": "0", "id": repository.name, "author": repository.name.partition("/")[0], "sha": oid, "private": repository.private,
        "lastModified": DATE, "createdAt": DATE, "gated": False, "disabled": False, "tags": [], "downloads": 0, "likes": 0,
        "siblings": files,
    }  # fmt: skip


def _discussions(repository: Repository) -> dict[str, Any]:
    found = [
        {"num": number, "title": title, "status": "open", "isPullRequest": True, "createdAt": DATE,
         "author": {"name": "owner"}, "repo": {"name": repository.name, "type": repository.kind.removesuffix("s")}}
        for number, title in repository.proposals.items()
    ]  # fmt: skip
    return {"discussions": found, "count": len(found), "start": 0}


def _error(status: int, code: str, text: str) -> Response:
    headers = {"X-Error-Message": text} | ({"X-Error-Code": code} if code else {})
    return Response(json.dumps({"error": text}), status, headers, mimetype="application/json")


if __name__ == "__main__":
    server = HubServer()
    sys.stdout.write(
        f"export HF_ENDPOINT={server.url} HF_HUB_DISABLE_XET=1 HF_TOKEN={OWNER}   # owner/NAME; Ctrl-C ends it\n"
    )
    sys.stdout.flush()
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
    server.close()
