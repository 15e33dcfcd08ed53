"""Fresh processes whose Hub is the loopback's, with an empty cache: the clients themselves know nothing of a test."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .hub_server import TOKEN, HubServer


@dataclass
class Client:
    """Runs programs against a Hub.

    Attributes:
        hub: The server.
        home: Its HF_HOME.
        token: HF_TOKEN; none if None.
        folder: Where programs run.
    """

    hub: HubServer
    home: Path
    token: str | None = TOKEN
    folder: Path = Path("/")

    @property
    def environment(self) -> dict[str, str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "MRCAR"))}
        env |= {
            "HF_ENDPOINT": self.hub.url,
            "HF_HOME": str(self.home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "COLUMNS": "200",
        }
        return env if self.token is None else {**env, "HF_TOKEN": self.token}

    def start(self, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        env = {**self.environment, **more}
        return subprocess.run(command, env=env, capture_output=True, text=True, cwd=self.folder, timeout=300)

    def mrcar(self, *args: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run the command line."""
        return self.start(sys.executable, "-m", "mrcar_timm.cli", *args, **more)

    def python(self, code: str, **more: str) -> str:
        """What a program prints; it must not fail."""
        done = self.start(sys.executable, "-c", code, **more)
        assert done.returncode == 0, done.stderr
        return done.stdout
