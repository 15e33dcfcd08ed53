"""The command line: ``mrcar predict``, ``video``, ``train``, ``eval``, ``publish`` and what else --help lists."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ..errors import MRCARError
from ..version import __version__
from . import bench, data, hub, photos, training
from .console import err, out

app = typer.Typer(
    name="mrcar",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Facial expressions with [bold]MrCAR[/bold]: recognise them in photos, train networks, score them.\n\n"
    "An expression is what a face shows, not what a person feels. Do not use this at work or in schools to "
    "infer emotions: the EU forbids it.",
)
for command in (photos.predict, photos.video, training.train, training.crossval, training.ablate, training.report):
    app.command()(command)
app.command("eval")(training.evaluate)
app.command()(training.robustness)
app.command()(training.average)
app.command()(training.package)
app.command()(hub.publish)
app.command()(hub.download)
app.command()(hub.models)
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")


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


def main() -> None:
    """Run the command line; errors of the package end with a line and exit code 1."""
    try:
        app()
    except (MRCARError, ValueError, OSError) as error:
        err.print(f"error: {error}", style="red", markup=False)
        sys.exit(1)
