"""The files of each visitor of the page: in folders whose names nobody can guess, until the visitor leaves."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from threading import Lock
from time import monotonic

from .worker import Choice

_KEPT = 2  # folders of a tab
_MOST_SECONDS = 3600.0  # for which files are kept of a visitor who does nothing


@dataclass
class Visitor:
    """A visitor.

    Attributes:
        choice: What was chosen.
        folders: By the tab, those of what the visitor is shown now, and was before.
        uploads: By the tab, those of what the visitor sent.
        film: The film that is being followed, by the name that the worker gave it.
        active: When the visitor last did something.
    """

    choice: Choice
    film: str | None = None
    folders: dict[str, list[Path]] = field(default_factory=dict)
    uploads: dict[str, list[Path]] = field(default_factory=dict)
    active: float = field(default_factory=monotonic)


class Visitors:
    """Who is there, by the name of their session.

    Args:
        root: Folder for all files.
        choice: What a visitor begins with.
        clock: Seconds that never go back.

    Attributes:
        examples: Folder of the example photos, which are everybody's and stay.
    """

    def __init__(self, root: Path, choice: Choice, clock: Callable[[], float] = monotonic) -> None:
        self.root = root.resolve()
        self.examples = self.root / "examples"
        self._choice = choice
        self._clock = clock
        self._visitors: dict[str, Visitor] = {}
        self._lock = Lock()

    def __getitem__(self, session: str) -> Visitor:
        with self._lock:
            visitor = self._visitors.setdefault(session, Visitor(self._choice))
            visitor.active = self._clock()
            return visitor

    def begin(self, session: str, tab: str, upload: str | Path | None = None) -> Path:
        """A new folder for what a visitor is shown in a tab.

        What was there before is deleted the next time, as the browser may still be loading it.

        Args:
            session: The visitor.
            tab: The tab.
            upload: What the visitor sent.
        """
        visitor = self[session]
        sent = None if upload is None else self.folder_of_upload(upload)
        folder = self.root / secrets.token_hex(16)
        with self._lock:
            old = _push(visitor.folders.setdefault(tab, []), folder)
            if sent is not None and sent not in visitor.uploads.get(tab, []):
                old += _push(visitor.uploads.setdefault(tab, []), sent)
        _remove(old)
        folder.mkdir(parents=True)
        return folder

    def folder_of_upload(self, path: str | Path) -> Path | None:
        """The folder that an upload has for itself; None if the file is one of the examples."""
        folder = Path(path).resolve().parent
        return folder if folder.parent == self.root and folder != self.examples else None

    def leave(self, session: str) -> None:
        """Delete all files of a visitor."""
        with self._lock:
            visitor = self._visitors.pop(session, None)
        if visitor is not None:
            _remove(chain(*visitor.folders.values(), *visitor.uploads.values()))

    def tidy(self) -> None:
        """Delete the files of visitors who have done nothing for an hour."""
        now = self._clock()
        with self._lock:
            idle = [name for name, visitor in self._visitors.items() if now - visitor.active > _MOST_SECONDS]
        for session in idle:
            self.leave(session)


def _push(folders: list[Path], folder: Path) -> list[Path]:
    """Add a folder to those that are kept, and take out those that are not any more."""
    folders.append(folder)
    old = folders[:-_KEPT]
    del folders[:-_KEPT]
    return old


def _remove(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
