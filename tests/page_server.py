"""``mrcar demo`` in a process of its own, which notes whom it speaks to."""

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil

#: Run at the start of every Python process of the server: notes connections to other machines.
_WATCH = """
import os, socket
_connect = socket.socket.connect
def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        with open(os.environ["CALLS"], "a") as out:
            print(address, file=out)
    return _connect(self, address)
socket.socket.connect = connect
"""


class PageServer:
    """The server, until the end of a ``with`` block.

    Args:
        folder: For its files.
        args: Of the command.

    Attributes:
        url: The address of the page.
        printed: Lines that it printed besides.
        files: Where it keeps what visitors send.
    """

    def __init__(self, folder: Path, *args: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sitecustomize.py").write_text(_WATCH)
        self._calls = folder / "calls.txt"
        environment = {
            **os.environ, "PYTHONPATH": str(folder), "CALLS": str(self._calls), "TMPDIR": str(folder),
            "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mrcar_timm.cli", "demo", "--no-open", *args], env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        self.printed: list[str] = []
        self.url = ""
        for line in self.process.stdout:
            found = re.match(r"mrcar-timm: (http://\S+)", line)
            if found:
                self.url = found[1].replace("0.0.0.0", "127.0.0.1").replace("localhost", "127.0.0.1")
                break
            self.printed.append(line)
        assert self.url, self.printed
        threading.Thread(target=self._read, daemon=True).start()
        (self.files,) = folder.glob("mrcar-demo-*")

    def _read(self) -> None:
        self.printed += self.process.stdout

    def __enter__(self) -> "PageServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(60)

    @property
    def port(self) -> int:
        return int(self.url.rstrip("/").rsplit(":", 1)[1])

    @property
    def calls(self) -> str:
        """Connections to other machines."""
        return self._calls.read_text() if self._calls.exists() else ""

    def worker(self) -> psutil.Process:
        """The process that computes."""
        children = psutil.Process(self.process.pid).children()
        return next(child for child in children if "resource_tracker" not in " ".join(child.cmdline()))

    def memory(self) -> float:
        """Megabytes of both processes."""
        processes = (psutil.Process(self.process.pid), self.worker())
        return sum(process.memory_info().rss for process in processes) / 1e6

    def temporary(self) -> set[Path]:
        """All files in its temporary directory."""
        return _files_in(self.files.parent)

    def stored(self) -> set[Path]:
        """Files of visitors."""
        return _files_in(self.files) - _files_in(self.files / "examples") - {self.files / "hash_seed.txt"}

    def ask(self, path: str, data: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        """Status and body of an answer."""
        try:
            with urlopen(Request(self.url + path, data, headers or {}), timeout=60) as answer:
                return answer.status, answer.read()
        except HTTPError as error:
            return error.code, error.read()

    def upload(self, name: str, content: bytes) -> str:
        """Send a file; its path on the server."""
        head = f'--edge\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        headers = {"Content-Type": "multipart/form-data; boundary=edge"}
        status, body = self.ask("gradio_api/upload", head + content + b"\r\n--edge--\r\n", headers)
        assert status == 200, body
        return json.loads(body)[0]


def _files_in(folder: Path) -> set[Path]:
    """All files in a folder, while the server may be deleting some."""
    return {Path(place, name) for place, _, names in os.walk(folder) for name in names}
