"""A fake Hub on this machine: the part of its HTTP interface that pushing and loading a model uses.

    with FakeHub() as hub:
        ...  # HF_ENDPOINT=hub.url, HF_TOKEN=WRITER, HF_HUB_DISABLE_XET=1
        hub.commits("me/model")[-1].files

Repositories live in memory. A commit takes only files whose content came with it or, if large, was uploaded before, and
with the hash that was promised: what the client gets wrong shows as an error, not as a silent gap.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

WRITER, READER = "hf_write", "hf_read"
OWNER = "me"


@dataclass
class Commit:
    """One state of a repository."""

    oid: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repository:
    """Branches, each a list of commits."""

    private: bool
    branches: dict[str, list[Commit]] = field(default_factory=dict)

    def find(self, revision):
        if revision in self.branches:
            return self.branches[revision][-1]
        return next((c for commits in self.branches.values() for c in commits if c.oid == revision), None)


class Refusal(Exception):
    """An HTTP error with the headers that huggingface_hub tells errors apart by."""

    def __init__(self, status, message, code=None, body=None):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.body = body or json.dumps({"error": message}).encode()


class FakeHub:
    """The server, in a thread; a context manager.

    `requests` lists what was asked, as "METHOD /path"; `failing` maps a regular expression of such a line to the status
    that it is answered with.
    """

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.failing: dict[str, int] = {}
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def make(self, repo_id, private=False, files=None):
        """A repository as the Hub makes it: with a first commit."""
        repository = Repository(private)
        repository.branches["main"] = [_commit("initial commit", {".gitattributes": b"", **(files or {})})]
        self.repositories[repo_id] = repository
        return repository

    def commits(self, repo_id, branch="main"):
        """All commits of a branch, the first one first."""
        return self.repositories[repo_id].branches[branch]


def _commit(message, files):
    text = json.dumps([message, sorted((name, hashlib.sha1(data).hexdigest()) for name, data in files.items())])
    return Commit(hashlib.sha1(text.encode()).hexdigest(), message, files)


def _is_large(path, size):
    return path.endswith(".safetensors") or size > 10_000_000


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"
    ROUTES = (
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate_yaml"),
        ("GET", r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", "info"),
        ("GET", r"/api/models/([^/]+/[^/]+)/tree/([^/]+).*", "tree"),
        ("POST", r"/api/models/([^/]+/[^/]+)/branch/(.+)", "branch"),
        ("POST", r"/api/models/([^/]+/[^/]+)/preupload/(.+)", "preupload"),
        ("POST", r"/api/models/([^/]+/[^/]+)/commit/(.+)", "commit"),
        ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
        ("PUT", r"/lfs/([0-9a-f]{64})", "upload"),
        ("GET", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "resolve"),
    )

    def log_message(self, *_):
        """No lines on stderr."""

    def do_GET(self):
        self._answer("GET")

    do_HEAD = do_GET

    def do_POST(self):
        self._answer("POST")

    def do_PUT(self):
        self._answer("PUT")

    def _answer(self, method):
        path = unquote(urlsplit(self.path).path)
        line = f"{self.command} {path}"
        self.hub.requests.append(line)
        self.body = self._read_body()
        try:
            for pattern, status in self.hub.failing.items():
                if re.search(pattern, line):
                    raise Refusal(status, "made to fail")
            for known, pattern, name in self.ROUTES:
                if known == method and (found := re.fullmatch(pattern, path)):
                    return self._send(200, *getattr(self, name)(*found.groups()))
            raise Refusal(404, f"no such page: {path}", "EntryNotFound")
        except Refusal as refusal:
            headers = {"X-Error-Message": refusal.message}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            self._send(refusal.status, refusal.body, headers)

    def _read_body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status, body, headers=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _token(self):
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def _check_writer(self, owner):
        token = self._token()
        if token not in (WRITER, READER):
            raise Refusal(401, "Invalid credentials in Authorization header")
        if token == READER or owner != OWNER:
            raise Refusal(403, f"You don't have the rights to write to {owner}")

    def _repository(self, repo_id, write=False):
        repository = self.hub.repositories.get(repo_id)
        if repository is None or (repository.private and self._token() not in (WRITER, READER)):
            raise Refusal(404 if self._token() else 401, "Repository not found", "RepoNotFound")
        if write:
            self._check_writer(repo_id.partition("/")[0])
        return repository

    def _state(self, repo_id, revision):
        found = self._repository(repo_id).find(revision)
        if found is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found

    def create(self):
        asked = json.loads(self.body)
        owner = asked.get("organization") or OWNER
        self._check_writer(owner)
        repo_id = f"{owner}/{asked['name']}"
        url = json.dumps({"url": f"{self.hub.url}/{repo_id}"}).encode()
        if repo_id in self.hub.repositories:
            raise Refusal(409, "You already created this model repo", body=url)
        self.hub.make(repo_id, private=asked.get("visibility") == "private" or bool(asked.get("private")))
        return (url,)

    def validate_yaml(self):
        text = json.loads(self.body)["content"]
        found = re.match(r"---\n.*?\n---\n", text, flags=re.DOTALL)
        errors = [] if found else [{"message": "no metadata"}]
        return (json.dumps({"errors": errors, "warnings": []}).encode(),)

    def info(self, repo_id, revision):
        repository, state = self._repository(repo_id), self._state(repo_id, revision or "main")
        siblings = [{"rfilename": name} for name in sorted(state.files)]
        values = {"id": repo_id, "modelId": repo_id, "sha": state.oid, "private": repository.private, "tags": []}
        return (json.dumps({**values, "siblings": siblings, "pipeline_tag": "translation"}).encode(),)

    def tree(self, repo_id, revision):
        entries = []
        for name, data in sorted(self._state(repo_id, revision).files.items()):
            entry = {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            if _is_large(name, len(data)):
                entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            entries.append(entry)
        return (json.dumps(entries).encode(),)

    def branch(self, repo_id, name):
        repository = self._repository(repo_id, write=True)
        if name in repository.branches:
            raise Refusal(409, "Reference already exists")
        repository.branches[name] = list(repository.branches["main"])
        return (b"{}",)

    def preupload(self, repo_id, revision):
        self._repository(repo_id, write=True)
        self._state(repo_id, revision)
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if _is_large(file["path"], file["size"]) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(self.body)["files"]
        ]
        return (json.dumps({"files": files}).encode(),)

    def batch(self, repo_id):
        self._repository(repo_id, write=True)
        objects = json.loads(self.body)["objects"]
        for item in objects:
            if item["oid"] not in self.hub.objects:
                item["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}
        return (json.dumps({"transfer": "basic", "objects": objects}).encode(),)

    def upload(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, "the content has another hash")
        self.hub.objects[oid] = self.body
        return (b"",)

    def commit(self, repo_id, revision):
        repository = self._repository(repo_id, write=True)
        files = dict(self._state(repo_id, revision).files)
        message = ""
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    raise Refusal(400, f"{value['path']} was never uploaded")
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif item["key"] == "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise Refusal(400, f"{value['path']} is not there")
            else:
                raise Refusal(400, f"unknown operation {item['key']}")
        made = _commit(message, files)
        repository.branches[revision].append(made)
        answer = {"commitUrl": f"{self.hub.url}/{repo_id}/commit/{made.oid}", "commitOid": made.oid, "success": True}
        return (json.dumps(answer).encode(),)

    def resolve(self, repo_id, revision, path):
        state = self._state(repo_id, revision)
        if path not in state.files:
            raise Refusal(404, f"{path} does not exist", "EntryNotFound")
        data = state.files[path]
        return data, {"X-Repo-Commit": state.oid, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
