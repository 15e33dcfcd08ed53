"""github.com on 127.0.0.1, for torch.hub: a proxy that answers itself, over TLS, under the real host names."""

from __future__ import annotations

import io
import json
import ssl
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme

OWNER, REPO = "OWNER", "REPO"


def archive(root: Path) -> bytes:
    """A checkout as GitHub zips it: in one folder."""
    files = [root / "hubconf.py", *(path for path in sorted((root / "src").rglob("*")) if path.is_file())]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as zipped:
        zipped.writestr(f"{OWNER}-{REPO}-0123abc/", b"")
        for file in files:
            if "__pycache__" not in file.parts:
                zipped.write(file, f"{OWNER}-{REPO}-0123abc/{file.relative_to(root)}")
    return buffer.getvalue()


class GitHub:
    """The server, in a thread of this process.

    Attributes:
        environment: What makes a process take it for GitHub.
        requests: Method, host and path of all that was asked.
    """

    def __init__(self, root: Path, folder: Path, branches: tuple[str, ...] = ("main", "v1")) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        certificate = authority.issue_cert("github.com", "api.github.com", "codeload.github.com")
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self.context)
        self.zip, self.branches = archive(root), branches
        self.requests: list[str] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"github": self}))
        self._http.daemon_threads = True
        proxy = f"http://127.0.0.1:{self._http.server_address[1]}"
        self.environment = {"https_proxy": proxy, "no_proxy": "", "SSL_CERT_FILE": str(folder / "ca.pem")}
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def __enter__(self) -> GitHub:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()


class _Handler(BaseHTTPRequestHandler):
    github: GitHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_CONNECT(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.connection = self.github.context.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb")
        self.close_connection = False

    def do_GET(self) -> None:
        host, path = self.headers["Host"], self.path.split("?")[0]
        self.github.requests.append(f"{host}{path}")
        first = self.path.endswith("&page=1")  # torch.hub turns pages until one is empty
        refs = [{"name": name, "commit": {"sha": "0123abc"}} for name in self.github.branches if first]
        answers = {
            f"api.github.com/repos/{OWNER}/{REPO}/branches": json.dumps(refs).encode(),
            f"api.github.com/repos/{OWNER}/{REPO}/tags": b"[]",
            f"codeload.github.com/{OWNER}/{REPO}/legacy.zip/v1": self.github.zip,
        }
        if f"{host}{path}" == f"github.com/{OWNER}/{REPO}/zipball/v1":
            self._send(302, Location=f"https://codeload.github.com/{OWNER}/{REPO}/legacy.zip/v1")
        elif (body := answers.get(f"{host}{path}")) is not None:
            self._send(200, body)
        else:
            self._send(404)

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body)), "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
