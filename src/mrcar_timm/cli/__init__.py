"""The command line ``mrcar``. Commands import what they need when they run, so that ``--help`` answers at once."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from ..errors import MRCARError
from ..version import __version__
from . import data, demo, experiments, explain, export, hub, photos, score, training, video
from .console import err, out, print_anything, printable

app = typer.Typer(
    name="mrcar",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Facial expressions with **MrCAR**: recognize them in photos, train networks, score them.\n\n"
    "An expression is what a face shows, not what a person feels. Do not use this at work or in schools to "
    "infer emotions: the EU forbids it.",
)
_PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Use": (photos.predict, score.score, video.video, explain.explain, demo.demo, hub.models, hub.download),
    "Train": (training.train, training.evaluate, training.average, training.package),
    "Publish": (hub.publish, export.export),
    "Reproduce": (experiments.crossval, experiments.ablate, experiments.report, experiments.robustness),
}
_NAMES = {training.evaluate: "eval"}
_CLASSES = {score.score: score.ScoreCommand}
for panel, commands in _PANELS.items():
    for command in commands:
        app.command(_NAMES.get(command), cls=_CLASSES.get(command), rich_help_panel=panel)(command)
app.add_typer(data.app, name="data", rich_help_panel="Train")
app.add_typer(experiments.bench, name="bench", rich_help_panel="Reproduce")


def _version(show: bool) -> None:
    if show:
        out.print(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _warning_line(message: Warning | str, *_: Any, **__: Any) -> str:
    return f"warning: {printable(str(message))}\n"


def main() -> None:
    """Run the command line; errors of the package end with one line and exit code 1."""
    print_anything()
    warnings.formatwarning = _warning_line
    try:
        app()
    except (MRCARError, ValueError, OSError) as error:
        err.quiet = False  # also of a process that leaves the telling to another one
        err.print(f"error: {error}", style="red")
        sys.exit(1)
