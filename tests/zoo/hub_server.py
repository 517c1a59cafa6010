"""A small Hugging Face Hub on 127.0.0.1, as much of it as the real clients ask for, and with the faults of a real one.

One server is the Hub; another, the origin of large files, takes their bytes and gives them, and refuses whoever shows
it a token. A large file is one of `.safetensors` or `.parquet`.
"""

import base64
import hashlib
import http.server
import itertools
import json
import re
import threading
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field

WRITER, READER, EXPIRED = "hf_writer0000", "hf_reader0000", "hf_expired0000"
_LARGE = (".safetensors", ".parquet")


@dataclass
class Repo:
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # commit -> its files
    refs: dict[str, str] = field(default_factory=dict)  # branch or tag -> commit
    messages: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, bytes], message: str, ref: str = "main") -> str:
        oid = hashlib.sha1(f"{id(self)}{len(self.commits)}{message}".encode()).hexdigest()
        self.commits[oid] = files
        self.refs[ref] = oid
        self.messages.append(message)
        return oid

    def resolve(self, revision: str) -> str | None:
        return self.refs.get(revision, revision if revision in self.commits else None)


class Hub:
    """Both servers. What a test may set, and look at:

    - `repos`: by (kind, id), kind "models" or "datasets". `log`: the requests, as "METHOD path"; `starts`: from which
      byte on each file was asked for.
    - `before`: called with (hub, method, path) before each answer; what it does is done then.
    - `broken`: how many answers more are 503. `cut`: the number of bytes after which a large file's connection is
      closed, for `cuts` times more. `altered`: large files are given with one byte changed.
    """

    def __init__(self):
        self.lock = threading.RLock()
        self._servers = [_serve(self, handler) for handler in (_HubHandler, _OriginHandler)]
        self.url, self.origin = (f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers)
        self.reset()

    def reset(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.log: list[str] = []
        self.starts: list[int] = []
        self.tokens_seen_by_origin: list[str] = []
        self.before: Callable[[Hub, str, str], None] = lambda hub, method, path: None
        self.broken = 0
        self.cut: int | None = None
        self.cuts = 0
        self.altered = False
        self.down = False

    def add(self, repo_id: str, files: dict[str, bytes], *, kind: str = "models", private: bool = False) -> Repo:
        repo = self.repos[kind, repo_id] = Repo(private)
        repo.commit(dict(files), "initial commit")
        return repo

    def take_from(self, name: str) -> bool:
        """Whether one of a number of faults is left; it is used up."""
        with self.lock:
            left = getattr(self, name)
            setattr(self, name, max(0, left - 1))
            return left > 0


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address) -> None:
        """A client that was killed is no news."""


def _serve(hub: Hub, handler: type) -> _Server:
    server = _Server(("127.0.0.1", 0), type(handler.__name__, (handler,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _entry(name: str, content: bytes) -> dict[str, object]:
    """A file in the listing of a repo."""
    entry: dict[str, object] = {"type": "file", "path": name, "size": len(content), "oid": _git_oid(content)}
    if name.endswith(_LARGE):
        entry["lfs"] = {"oid": _sha256(content), "size": len(content), "pointerSize": 134}
    return entry


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments) -> None:
        pass

    def do(self) -> None:
        split = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(split.path)
        self.query = dict(urllib.parse.parse_qsl(split.query))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.log.append(f"{self.command} {path}")
        self.hub.before(self.hub, self.command, path)
        if self.hub.down:
            self.close_connection = True
            self.connection.close()
            return
        if self.hub.take_from("broken"):
            self.answer(503, {"error": "out of order"})
            return
        self.serve(path, body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do

    def answer(self, status: int, content: object = b"", **headers: object) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        lengths = {} if "Content_Length" in headers else {"Content_Length": len(body)}
        for name, value in {**lengths, **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def give(self, content: bytes, **headers: object) -> None:
        """A file, or the rest of it that is asked for."""
        start = int((re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) or [0, 0])[1])
        part = content[start:]
        self.hub.starts.append(start)
        span = {"Content_Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        if self.hub.cut is not None and len(part) > self.hub.cut and self.hub.take_from("cuts"):
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            self.wfile.write(part[: self.hub.cut])
            self.wfile.flush()
            self.close_connection = True
            return
        self.answer(206 if start else 200, part, Accept_Ranges="bytes", **span, **headers)


class _OriginHandler(_Handler):
    """/SHA256 takes and gives a large file."""

    def serve(self, path: str, body: bytes) -> None:
        if token := self.headers.get("Authorization"):
            self.hub.tokens_seen_by_origin.append(token)
            self.answer(400, {"error": "no token is to be shown here"})
        elif self.command == "PUT":
            if _sha256(body) != path[1:]:
                self.answer(400, {"error": "these are not the bytes"})
                return
            self.hub.objects[path[1:]] = body
            self.answer(200)
        else:
            content = self.hub.objects[path[1:]]
            self.give(content[:-1] + bytes([content[-1] ^ 1]) if self.hub.altered else content)


class _HubHandler(_Handler):
    def serve(self, path: str, body: bytes) -> None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        self.may_write, self.may_read = token == WRITER, token in (WRITER, READER)
        if token and not self.may_read:
            reason = (
                "Invalid credentials in Authorization header" if token != EXPIRED else "User access token has expired"
            )
            self.answer(401, {"error": reason}, X_Error_Message=reason)
            return
        for method, pattern, handler in _ROUTES:
            if (match := re.fullmatch(pattern, path)) and self.command in method:
                handler(self, *match.groups(), body=body) if body or "POST" in method else handler(
                    self, *match.groups()
                )
                return
        self.answer(404, {"error": f"no route {self.command} {path}"}, X_Error_Code="EntryNotFound")

    def repo(self, kind: str, repo_id: str) -> Repo | None:
        """The repo, or None, after an answer that it is not there."""
        repo = self.hub.repos.get((kind, repo_id))
        if repo is not None and repo.gated and not self.may_write:
            self.answer(403, {"error": "Access to this model is restricted"}, X_Error_Code="GatedRepo")
            return None
        if repo is None or (repo.private and not self.may_read):
            status = 404 if self.may_read else 401
            self.answer(status, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return None
        return repo

    def commit_of(self, kind: str, repo_id: str, revision: str) -> tuple[Repo, str] | None:
        if (repo := self.repo(kind, repo_id)) is None:
            return None
        if (oid := repo.resolve(revision)) is None:
            self.answer(404, {"error": f"Invalid rev id: {revision}"}, X_Error_Code="RevisionNotFound")
            return None
        return repo, oid

    def writable(self) -> bool:
        if not self.may_write:
            self.answer(403 if self.may_read else 401, {"error": "You don't have the rights to write here"})
        return self.may_write

    def whoami(self) -> None:
        self.answer(200, {"name": "me", "type": "user", "orgs": []})

    def create(self, *, body: bytes) -> None:
        if not self.writable():
            return
        asked = json.loads(body)
        kind = f"{asked.get('type') or 'model'}s"
        repo_id = f"{asked.get('organization') or 'me'}/{asked['name']}"
        url = f"{self.hub.url}/{repo_id}"
        with self.hub.lock:
            if (kind, repo_id) in self.hub.repos:
                self.answer(409, {"error": "You already created this repo", "url": url})
                return
            private = bool(asked.get("private")) or asked.get("visibility") == "private"
            self.hub.add(repo_id, {".gitattributes": b""}, kind=kind, private=private)
        self.answer(200, {"url": url, "name": repo_id, "id": repo_id})

    def info(self, kind: str, repo_id: str, revision: str | None) -> None:
        if found := self.commit_of(kind, repo_id, revision or "main"):
            repo, oid = found
            siblings = [{"rfilename": name} for name in sorted(repo.commits[oid])]
            self.answer(
                200,
                {
                    "_id": "0",
                    "id": repo_id,
                    "modelId": repo_id,
                    "private": repo.private,
                    "sha": oid,
                    "siblings": siblings,
                }
                | {"tags": [], "downloads": 0, "likes": 0},
            )

    def tree(self, kind: str, repo_id: str, revision: str, folder: str | None) -> None:
        if found := self.commit_of(kind, repo_id, revision):
            repo, oid = found
            prefix = f"{folder}/" if folder else ""
            entries: dict[str, dict[str, object]] = {}
            for name, content in sorted(repo.commits[oid].items()):
                if not name.startswith(prefix):
                    continue
                inner = name.removeprefix(prefix).split("/")
                if len(inner) > 1:
                    entries[prefix + inner[0]] = {"type": "directory", "path": prefix + inner[0], "size": 0, "oid": oid}
                if len(inner) == 1 or self.query.get("recursive", "").lower() in ("true", "1"):
                    entries[name] = _entry(name, content)
            self.answer(200, list(entries.values()))

    def paths(self, kind: str, repo_id: str, revision: str, *, body: bytes) -> None:
        if found := self.commit_of(kind, repo_id, revision):
            repo, oid = found
            text = body.decode()
            wanted = json.loads(text)["paths"] if text.startswith("{") else urllib.parse.parse_qs(text).get("paths", [])
            files = repo.commits[oid]
            self.answer(
                200,
                [_entry(name, files[name]) for name in wanted if name in files],
            )

    def preupload(self, kind: str, repo_id: str, revision: str, *, body: bytes) -> None:
        if self.writable() and (found := self.commit_of(kind, repo_id, revision)):
            repo, oid = found
            there = repo.commits[oid]
            files: list[dict[str, object]] = []
            for file in json.loads(body)["files"]:
                name = file["path"]
                large = name.endswith(_LARGE)
                files.append({"path": name, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False})
                if name in there:
                    files[-1]["oid"] = _sha256(there[name]) if large else _git_oid(there[name])
            self.answer(200, {"files": files})

    def batch(self, kind: str | None, repo_id: str, *, body: bytes) -> None:
        if not self.writable():
            return
        objects = []
        for wanted in json.loads(body)["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.objects:
                entry["actions"] = {"upload": {"href": f"{self.hub.origin}/{wanted['oid']}"}}
            objects.append(entry)
        self.answer(200, {"transfer": "basic", "objects": objects})

    def commit(self, kind: str, repo_id: str, revision: str, *, body: bytes) -> None:
        if not self.writable():
            return
        with self.hub.lock:
            if not (found := self.commit_of(kind, repo_id, revision)):
                return
            repo, head = found
            header, *operations = [json.loads(line) for line in body.splitlines()]
            asked = header["value"]
            if asked.get("parentCommit", head) != head:
                self.answer(412, {"error": "A commit has happened since. Please refresh and try again."})
                return
            files = dict(repo.commits[head])
            for operation in operations:
                key, value = operation["key"], operation["value"]
                if key == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif key == "lfsFile":
                    files[value["path"]] = self.hub.objects[value["oid"]]
                elif key == "deletedFile":
                    del files[value["path"]]
            if as_pr := "create_pr" in self.query:
                number = next(n for n in itertools.count(1) if f"refs/pr/{n}" not in repo.refs)
                revision = f"refs/pr/{number}"
            oid = repo.commit(files, asked["summary"], revision)
        pr = {"pullRequestUrl": f"{self.hub.url}/{repo_id}/discussions/{number}"} if as_pr else {}
        self.answer(
            200, {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{oid}"} | pr
        )

    def ref(self, kind: str, repo_id: str, what: str, name: str, *, body: bytes) -> None:
        if self.writable() and (repo := self.repo(kind, repo_id)):
            asked = json.loads(body or b"{}")
            name, start = (asked["tag"], name) if what == "tag" else (name, asked.get("startingPoint", "main"))
            if name.startswith("refs/"):
                self.answer(400, {"error": "Invalid reference for a branch"})
            elif name in repo.refs:
                self.answer(409, {"error": "Reference already exists"})
            elif (oid := repo.resolve(start)) is None:
                self.answer(404, {"error": f"Invalid rev id: {start}"}, X_Error_Code="RevisionNotFound")
            else:
                repo.refs[name] = oid
                self.answer(200, {})

    def validate(self, *, body: bytes) -> None:
        """Of the metadata, the values that the Hub knows by their form; no metadata are a warning."""
        block = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], flags=re.DOTALL)
        given = dict(re.findall(r"^(\w+): *(.*)$", block[1], flags=re.MULTILINE)) if block else {}
        wrong = [
            f'"{key}" is {given[key]}' for key, form in _FORMS.items() if not re.fullmatch(form, given.get(key, "x"))
        ]
        found = {"errors": wrong, "warnings": [] if block else ["empty or missing yaml metadata in repo card"]}
        listed = {kind: [{"message": one} for one in ones] for kind, ones in found.items()}
        self.answer(400 if wrong else 200, listed)

    def resolve(self, kind: str | None, repo_id: str, revision: str, name: str) -> None:
        if not (found := self.commit_of(kind or "models", repo_id, revision)):
            return
        repo, oid = found
        if (content := repo.commits[oid].get(name)) is None:
            self.answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=oid)
        elif name.endswith(_LARGE):
            checksum = _sha256(content)
            self.hub.objects[checksum] = content
            linked = {"X_Linked_Size": len(content), "X_Linked_ETag": f'"{checksum}"', "X_Repo_Commit": oid}
            self.answer(302, Location=f"{self.hub.origin}/{checksum}", **linked)
        elif self.command == "HEAD":
            self.answer(200, ETag=f'"{_git_oid(content)}"', X_Repo_Commit=oid, Content_Length=len(content))
        else:
            self.give(content, ETag=f'"{_git_oid(content)}"', X_Repo_Commit=oid)


_FORMS = {"base_model": r"([\w.-]+/)?[\w.-]+", "library_name": r"[\w.-]+", "pipeline_tag": r"[a-z0-9-]+"}
_KIND, _ID = "(models|datasets)", r"([\w.-]+/[\w.-]+)"
_ROUTES: list[tuple[str, str, Callable]] = [
    ("GET", "/api/whoami-v2", _HubHandler.whoami),
    ("POST", "/api/repos/create", _HubHandler.create),
    ("POST", "/api/validate-yaml", _HubHandler.validate),
    ("GET", f"/api/{_KIND}/{_ID}(?:/revision/(.+))?", _HubHandler.info),
    ("GET", f"/api/{_KIND}/{_ID}/tree/([^/]+|refs/pr/[0-9]+)(?:/(.*))?", _HubHandler.tree),
    ("POST", f"/api/{_KIND}/{_ID}/paths-info/(.+)", _HubHandler.paths),
    ("POST", f"/api/{_KIND}/{_ID}/preupload/(.+)", _HubHandler.preupload),
    ("POST", f"/api/{_KIND}/{_ID}/commit/(.+)", _HubHandler.commit),
    ("POST", f"/api/{_KIND}/{_ID}/(tag|branch)/(.+)", _HubHandler.ref),
    ("POST", rf"/(datasets/)?{_ID}\.git/info/lfs/objects/batch", _HubHandler.batch),
    ("GET HEAD", f"/(?:(datasets)/)?{_ID}/resolve/([^/]+|refs/pr/[0-9]+)/(.+)", _HubHandler.resolve),
]
