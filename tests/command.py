"""The command line in the process of the tests, since starting another one and importing PyTorch takes seconds."""

import contextlib
import io
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from mrcar_timm import cli


class Done(NamedTuple):
    """What a command did."""

    returncode: int
    stdout: str
    stderr: str


def mrcar(*args: object, cwd: Path | None = None) -> Done:
    """Run ``mrcar`` with arguments here."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", ["mrcar", *map(str, args)]),
        _chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(warnings, "formatwarning", warnings.formatwarning),
    ):
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return Done(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _chdir(folder: Path):  # contextlib has it from Python 3.11 on
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def mrcar_alone(*args: object, **kwargs) -> subprocess.CompletedProcess:
    """Run ``mrcar`` with arguments in a process of its own."""
    command = [sys.executable, "-m", "mrcar_timm.cli", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)
