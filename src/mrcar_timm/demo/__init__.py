"""A page in the browser: photos, the camera and films in; faces and their expressions out.

Gradio's page and API on this machine. Nothing is loaded from, or sent to, any other.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import sys
import tempfile
import threading
import warnings
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from time import sleep
from types import ModuleType
from typing import Any

from wrapt import when_imported

from ..errors import MRCARError

__all__ = ["DemoWarning", "launch"]

_EXAMPLES = Path(__file__).parent / "examples"
_WEIGHTS = Path(__file__).parent.parent / "weights"
_TIDY = 60.0  # seconds after which files of visitors who have gone are looked for
# Gradio asks its maker for news and reports its use, unless told not to.
_QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_NUM_PORTS": "100"}


@when_imported("gradio.component_meta")
def _write_no_stubs(module: ModuleType) -> None:
    """Gradio writes a file of types for each component as it is imported: half of the time that its import takes."""
    module.create_or_modify_pyi = lambda *_: None  # type: ignore[attr-defined]


class DemoWarning(UserWarning):
    """The page can be reached by others, who need no password."""


def launch(
    models: Sequence[str] = (),
    host: str = "127.0.0.1",
    port: int | None = None,
    auth: tuple[str, str] | None = None,
    max_upload: int = 500_000_000,
    open_browser: bool = False,
    wait: bool = True,
) -> str:
    """Serve the page.

    Args:
        models: Networks that can be chosen besides the packaged ones, the first of which is shown first; names as
            :func:`~mrcar_timm.load_network` takes them.
        host: Address to listen at; "0.0.0.0" for all.
        port: Port; the first free one from 7860 on if None.
        auth: User and password that are asked for.
        max_upload: Most bytes of a file that is sent.
        open_browser: Show the page in a browser, too.
        wait: Return when the server ends; else at once, and it ends with the program.

    Returns:
        The address of the page.

    Raises:
        MRCARError: If Gradio is not installed, or the port is taken.
        WeightsError: If there is no such network.
    """
    missing = [name for name in ("gradio", "av", "pandas") if find_spec(name) is None]
    if missing:
        raise MRCARError(f'the page needs {", ".join(missing)}: pip install "mrcar-timm[demo]"')
    if auth is None and not _is_loopback(host):
        warnings.warn(
            f"everybody who reaches {host} can use the page; --auth user:password asks for one",
            DemoWarning,
            stacklevel=2,
        )
    from .pool import Worker
    from .worker import Choice, check

    names = _networks(models)
    with ExitStack() as stack:
        work = Worker(Choice(names[0]))  # it loads while the page is made
        stack.callback(work.close)
        root = stack.enter_context(tempfile.TemporaryDirectory(prefix="mrcar-demo-", ignore_cleanup_errors=True))
        stack.enter_context(_environment({**_QUIET, "GRADIO_TEMP_DIR": root}))
        page = _serve(work, Path(root), names, host, port, auth, max_upload)
        stack.callback(page.close, verbose=False)
        if models:
            work.submit(check, models).result()
        print(f"mrcar-timm: {page.local_url}", flush=True)
        if open_browser and _has_screen():
            webbrowser.open(page.local_url)
        if not wait:
            atexit.register(stack.pop_all().close)
            return page.local_url
        ended = threading.Event()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda *_: ended.set())  # files are deleted then, too
        with suppress(KeyboardInterrupt):
            ended.wait()
    return page.local_url


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Variables of the environment, by which Gradio is told some things, until the end of the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ |= values
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _serve(
    work: Any,
    root: Path,
    names: list[str],
    host: str,
    port: int | None,
    auth: tuple[str, str] | None,
    max_upload: int,
) -> Any:
    """Make the page and begin to serve it."""
    import gradio as gr
    from starlette.middleware import Middleware

    from .page import CSS, build_page
    from .uploads import UploadLimits, prepare_uploads
    from .visitors import Visitors
    from .worker import Choice

    prepare_uploads()
    visitors = Visitors(root, Choice(names[0]))
    shutil.copytree(_EXAMPLES, visitors.examples)
    page = build_page(work, visitors, names)
    try:
        page.queue(default_concurrency_limit=1, max_size=100).launch(
            server_name=host, server_port=port, auth=auth, share=False, quiet=True, prevent_thread_lock=True,
            max_file_size=max_upload, ssr_mode=False, pwa=False, mcp_server=False, run_history=False,
            enable_monitoring=False, footer_links=["api"], css=CSS,
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            app_kwargs={"middleware": [Middleware(UploadLimits, most=max_upload)]},
        )  # fmt: skip
    except OSError as error:
        raise MRCARError(f"{host}:{port or 7860} cannot be listened to ({error})") from error
    threading.Thread(target=_tidy, args=(visitors,), daemon=True).start()
    return page


def _tidy(visitors: Any) -> None:
    while True:
        sleep(_TIDY)
        visitors.tidy()


def _networks(models: Sequence[str]) -> list[str]:
    """Names of the networks to choose from: those that are given, then those of the package, the default first.

    Told from the folders' names: what knows more imports PyTorch, which the page's process does without.
    """
    packaged = sorted(folder.name for folder in _WEIGHTS.iterdir() if (folder / "config.json").exists())
    return list(dict.fromkeys([*models, *packaged]))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _has_screen() -> bool:
    """Whether a browser can be shown: not one in the terminal, which would take it over."""
    return sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
