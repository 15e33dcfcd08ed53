"""One process a folder that is written: the second is told who is there."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import MRCARError
from .output import write_text


class FolderLock:
    """A lock on a folder, which the system releases if the process dies.

    Args:
        folder: The folder, which exists.
        use: What is done there.

    Example:
        >>> import tempfile
        >>> lock = FolderLock(Path(tempfile.mkdtemp()))
        >>> lock.acquire()
        >>> lock.release()
    """

    def __init__(self, folder: Path, use: str = "trained") -> None:
        self._folder, self._use = folder, use
        self._lock = FileLock(folder / ".lock")
        self._owner = folder / ".running.json"

    def acquire(self) -> None:
        """Take the lock; again if it is held by this object.

        Raises:
            MRCARError: If another process holds it, with its id, its host, and for how long it has run.
        """
        if self._lock.is_locked:
            return
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise MRCARError(f"{self._folder} is being {self._use} by {self._who()}; wait for it or stop it") from None
        write_text(self._owner, json.dumps({"pid": os.getpid(), "host": platform.node(), "since": time.time()}))

    def _who(self) -> str:
        try:
            owner = json.loads(self._owner.read_text(encoding="utf-8"))
            minutes = (time.time() - owner["since"]) / 60
            return f"process {owner['pid']} on {owner['host']}, since {minutes:.0f} minutes"
        except (OSError, ValueError, KeyError):  # it has the lock, but has not written this yet
            return "another process"

    def release(self) -> None:
        """Give the lock back."""
        if self._lock.is_locked:
            self._owner.unlink(missing_ok=True)
            self._lock.release()
