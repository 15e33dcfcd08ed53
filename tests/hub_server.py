"""A small Hub on 127.0.0.1: enough of huggingface.co's protocol for its unmodified clients, and faults on demand.

Repositories lie in memory. Large files go through git-lfs and are served, as there, by a redirect to other storage.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from yaml import YAMLError

TOKEN = "hf_loopback"
_DATE = "2026-01-01T00:00:00.000Z"


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    files: dict[str, bytes]


@dataclass
class Repo:
    private: bool
    commits: list[Commit]
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def at(self, revision: str) -> Commit | None:
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        return next((commit for commit in self.commits if commit.oid == oid), None)

    def add(self, branch: str, title: str, files: dict[str, bytes]) -> Commit:
        oid = hashlib.sha1(f"{len(self.commits)} {title}".encode()).hexdigest()
        self.commits.append(Commit(oid, title, files))
        self.branches[branch] = oid
        return self.commits[-1]


@dataclass(frozen=True)
class Fault:
    """What goes wrong: with answers to GETs of files whose path matches, or, of a status, with all of them.

    Attributes:
        kind: "drop" (the connection, half-way), "short" (less than announced), or the number of a status.
        path: Regular expression.
        change: Bytes that are sent in place of the right ones.
    """

    kind: str | int = ""
    path: str = "."
    change: Callable[[bytes], bytes] | None = None


class HubServer:
    """The server, in a thread of this process.

    Attributes:
        repos: By "ORG/NAME".
        lfs: Files of this ending are stored as large files; the others come in the commit.
        fault: What goes wrong now; a client under test, which speaks to this server alone, can name another, of
            ``faults``, by GET /test/fault/NAME, or none by GET /test/heal.
        faults: Those that go by a name.
        requests: Method and path of all that was asked.
        unknown: What was asked and is not there to answer it; a test can see that it is empty.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.lfs: tuple[str, ...] = (".safetensors", ".png")
        self.fault: Fault | None = None
        self.faults: dict[str, Fault] = {}
        self.requests: list[str] = []
        self.unknown: list[str] = []
        handler = type("Bound", (_Handler,), {"hub": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self.storage = f"http://localhost:{self._http.server_address[1]}/storage"  # another host to the clients
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def __enter__(self) -> HubServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def is_lfs(self, path: str) -> bool:
        return path.endswith(self.lfs)

    def file_id(self, path: str, data: bytes) -> str:
        """What a file goes by: the SHA-256 of a large one, git's digest of another."""
        if self.is_lfs(path):
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Stop(Exception):
    """Ends a request with a status."""

    def __init__(self, status: int, message: str, code: str = "", **body: Any) -> None:
        self.status, self.body = status, {"error": message, **body}
        self.headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def _serve(self) -> None:
        url = urlsplit(self.path)
        path, self.query = unquote(url.path), parse_qs(url.query)
        self.data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.requests.append(f"{self.command} {path}")
        try:
            fault = self.hub.fault
            if fault and isinstance(fault.kind, int) and re.search(fault.path, path) and not path.startswith("/test/"):
                code = "RepoNotFound" if fault.kind == 404 else ""
                raise _Stop(fault.kind, f"told to answer {fault.kind}", code)
            for method, pattern, answer in _ROUTES:
                if self.command in method.split("|") and (match := re.fullmatch(pattern, path)):
                    answer(self, **match.groupdict())
                    return
            self.hub.unknown.append(f"{self.command} {path}")
            raise _Stop(404, "no such route")
        except _Stop as stop:
            self._send(stop.status, json.dumps(stop.body).encode(), stop.headers)

    def _send(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(name, value)
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, values: Any) -> None:
        self._send(200, json.dumps(values).encode())

    def _user(self) -> bool:
        given = self.headers.get("Authorization")
        if given not in (None, f"Bearer {TOKEN}"):
            raise _Stop(401, "Invalid credentials in Authorization header")
        return given is not None

    def _repo(self, repo_id: str, write: bool = False) -> Repo:
        user, repo = self._user(), self.hub.repos.get(repo_id)
        if write and not user:
            raise _Stop(401, "Invalid username or password.")
        if repo is None or (repo.private and not user):
            raise _Stop(404 if user else 401, "Repository not found", "RepoNotFound")
        return repo

    def _commit(self, repo: Repo, revision: str) -> Commit:
        commit = repo.at(revision)
        if commit is None:
            raise _Stop(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    # --- who, repositories, what is in them

    def whoami(self) -> None:
        if not self._user():
            raise _Stop(401, "Invalid username or password.")
        self._json({"type": "user", "name": "me", "fullname": "Me", "orgs": [], "auth": {"type": "access_token"}})

    def create(self) -> None:
        if not self._user():
            raise _Stop(401, "Invalid username or password.")
        asked = json.loads(self.data)
        repo_id = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if asked.get("type") == "space":
            assert asked["sdk"] == "gradio"
            repo_id = f"spaces/{repo_id}"
        url = f"{self.hub.url}/{repo_id}"
        if repo_id in self.hub.repos:
            raise _Stop(409, "You already created this model repo", url=url)
        private = asked.get("private") or asked.get("visibility") == "private"
        self.hub.repos[repo_id] = Repo(bool(private), [])
        self.hub.repos[repo_id].add("main", "initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"})
        self._json({"url": url, "id": repo_id, "name": repo_id})

    def info(self, repo: str, revision: str | None = None) -> None:
        found = self._repo(repo)
        commit = self._commit(found, revision or "main")
        siblings = [{"rfilename": path} for path in commit.files]
        self._json({"_id": "0", "id": repo, "modelId": repo, "sha": commit.oid, "private": found.private, "tags": [],
                    "lastModified": _DATE, "siblings": siblings})  # fmt: skip

    def tree(self, repo: str, revision: str) -> None:
        commit = self._commit(self._repo(repo), revision)
        self._json([self._entry(path, data) for path, data in commit.files.items()])

    def _entry(self, path: str, data: bytes) -> dict[str, Any]:
        oid = self.hub.file_id(path, data)
        large = {"lfs": {"oid": oid, "size": len(data), "pointerSize": 134}} if self.hub.is_lfs(path) else {}
        return {"type": "file", "path": path, "size": len(data), "oid": oid[:40], **large}

    def refs(self, repo: str) -> None:
        found = self._repo(repo)
        branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": oid} for n, oid in found.branches.items()]
        tags = [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": oid} for n, oid in found.tags.items()]
        self._json({"branches": branches, "tags": tags, "converts": []})

    def commits(self, repo: str, revision: str) -> None:
        found = self._repo(repo)
        upto = found.commits.index(self._commit(found, revision)) + 1
        listed = [{"id": c.oid, "title": c.title, "message": "", "authors": [], "date": _DATE} for c in found.commits]
        self._json(listed[:upto][::-1])

    def tag(self, repo: str, revision: str) -> None:
        found, name = self._repo(repo, write=True), json.loads(self.data)["tag"]
        if name in found.tags:
            raise _Stop(409, "Tag already exists")
        found.tags[name] = self._commit(found, revision).oid
        self._json({})

    def break_or_heal(self, name: str | None = None) -> None:
        self.hub.fault = None if name is None else self.hub.faults[name]
        self._json({})

    # --- uploads

    def validate_yaml(self) -> None:
        from huggingface_hub import ModelCard  # late: the tests say first where its Hub is

        try:
            ModelCard(json.loads(self.data)["content"])
        except (ValueError, YAMLError) as error:
            self._send(400, json.dumps({"errors": [{"message": str(error)}], "warnings": []}).encode())
        else:
            self._json({"errors": [], "warnings": []})

    def preupload(self, repo: str, revision: str) -> None:
        files = self._commit(self._repo(repo, write=True), revision).files
        answer = []
        for asked in json.loads(self.data)["files"]:
            path = asked["path"]
            oid = self.hub.file_id(path, files[path]) if path in files else None
            mode = "lfs" if self.hub.is_lfs(path) else "regular"
            answer.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": answer})

    def batch(self, repo: str) -> None:
        self._repo(repo, write=True)
        objects: list[dict[str, Any]] = []
        for asked in json.loads(self.data)["objects"]:
            upload = {"upload": {"href": f"{self.hub.storage}/{asked['oid']}"}}
            objects.append({**asked, **({} if asked["oid"] in self.hub.objects else {"actions": upload})})
        self._json({"transfer": "basic", "objects": objects})

    def put_object(self, oid: str) -> None:
        if hashlib.sha256(self.data).hexdigest() != oid:
            raise _Stop(400, "the object has another digest")
        self.hub.objects[oid] = self.data
        self._json({})

    def commit(self, repo: str, revision: str) -> None:
        found = self._repo(repo, write=True)
        if revision not in found.branches:
            raise _Stop(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        files, title = dict(self._commit(found, revision).files), ""
        for line in self.data.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                title = value["summary"]
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    raise _Stop(400, "the large file was not uploaded")
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif item["key"] == "deletedFile":
                del files[value["path"]]
            else:
                raise _Stop(400, f"unknown key {item['key']}")
        new = found.add(revision, title, files)
        self._json({"success": True, "commitOid": new.oid, "commitUrl": f"{self.hub.url}/{repo}/commit/{new.oid}",
                    "hookOutput": ""})  # fmt: skip

    # --- downloads

    def resolve(self, repo: str, revision: str, path: str) -> None:
        commit = self._commit(self._repo(repo), revision)
        if path not in commit.files:
            raise _Stop(404, "Entry not found", "EntryNotFound")
        data, headers = commit.files[path], {"X-Repo-Commit": commit.oid}
        oid = self.hub.file_id(path, data)
        if self.hub.is_lfs(path):
            self.hub.objects[oid] = data
            where = f"{self.hub.storage}/{oid}?name={path}"
            headers |= {"Location": where, "X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(data))}
            self._send(302, b"", headers)
        else:
            self._file(path, data, {**headers, "ETag": f'"{oid}"'})

    def get_object(self, oid: str) -> None:
        self._file(self.query.get("name", [""])[0], self.hub.objects[oid], {"ETag": f'"{oid}"'})

    def _file(self, path: str, data: bytes, headers: dict[str, str]) -> None:
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
        fault = self.hub.fault if self.command == "GET" else None
        kind = ""
        if fault is not None and re.search(fault.path, path):
            kind = str(fault.kind)
            data = fault.change(data) if fault.change else data
        status, total = 200, len(data)
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(asked[1])
            status, data = 206, data[start:]
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        if kind == "short":
            data = data[: len(data) // 2]
        if kind == "drop":
            self._send(status, data[: len(data) // 2], {**headers, "Content-Length": str(len(data))})
            self.close_connection = True
            self.connection.close()
            return
        self._send(status, data, headers)


#: A model, or a Space: in memory it is called spaces/ORG/NAME.
_REPO, _REV = r"(?P<repo>(?:spaces/)?[^/]+/[^/]+)", r"(?P<revision>.+?)"
_API = r"/api/(?:models/)?"
_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", r"/api/whoami-v2", _Handler.whoami),
    ("GET", r"/test/heal", _Handler.break_or_heal),
    ("GET", r"/test/fault/(?P<name>.+)", _Handler.break_or_heal),
    ("GET", r"/api/agent-harnesses", lambda handler: handler._json({})),
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", _Handler.validate_yaml),
    ("GET", rf"{_API}{_REPO}", _Handler.info),
    ("GET", rf"{_API}{_REPO}/revision/{_REV}", _Handler.info),
    ("GET", rf"{_API}{_REPO}/tree/{_REV}", _Handler.tree),
    ("GET", rf"{_API}{_REPO}/refs", _Handler.refs),
    ("GET", rf"{_API}{_REPO}/commits/{_REV}", _Handler.commits),
    ("POST", rf"{_API}{_REPO}/tag/{_REV}", _Handler.tag),
    ("POST", rf"{_API}{_REPO}/preupload/{_REV}", _Handler.preupload),
    ("POST", rf"{_API}{_REPO}/commit/{_REV}", _Handler.commit),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", r"/storage/(?P<oid>\w+)", _Handler.put_object),
    ("HEAD|GET", r"/storage/(?P<oid>\w+)", _Handler.get_object),
    ("HEAD|GET", rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
]
