"""``mrcar publish``, ``download`` and ``models``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table
from rich.text import Text

from ..errors import MRCARError
from .console import emit
from .console import out as console

if TYPE_CHECKING:
    from ..hub import KnownWeights

RepoId = Annotated[str, typer.Option("--repo-id", help="Repository: ORG/NAME.")]


def publish(
    source: Annotated[
        str,
        typer.Argument(
            metavar="NETWORK",
            help="A network: a run folder, or weights of the package by name.",
        ),
    ],
    repo_id: RepoId,
    private: Annotated[bool, typer.Option("--private", help="Create a private repository.")] = False,
    revision: Annotated[str | None, typer.Option(help="An existing branch to publish to, or a new tag.")] = None,
    space: Annotated[
        str | None, typer.Option(help="A Space, ORG/NAME, with the page of `mrcar demo` for this network.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the folder without publishing it.")] = False,
    folder: Annotated[
        Path | None, typer.Option(help="Where --dry-run writes; a folder with the repository's name if left out.")
    ] = None,
) -> None:
    """Publish weights on the Hugging Face Hub: safetensors, a config for timm and transformers, a model card.

    Publishing the same weights twice is a no-op. Authenticate with HF_TOKEN or `hf auth login`.

    Example: `mrcar publish runs/first --repo-id ORG/mrcar_resnet.mine --revision v1`
    """
    from ..checkpoints.hub_files import Repository
    from ..hub import publish as publish_weights
    from ..hub import save, save_space

    if folder is not None and not dry_run:
        raise MRCARError("--folder goes with --dry-run")
    if dry_run:
        folder = folder or Path(repo_id.split("/")[-1])
        space_folder = folder.with_name(f"{folder.name}-space")
        record = save(source, folder, repo_id)
        places = str(folder)
        if space is not None:
            save_space(space_folder, space, Repository(repo_id, revision), record)
            places += f" and {space_folder}"
        console.print(f"written to {places}, digest {record.sha256}; nothing was published")
        return
    published = publish_weights(source, repo_id, revision, private, space=space)
    state = "published" if published.changed else "there already, nothing was changed"
    console.print(f"{published.repository}: {state}\n{published.url}")
    if published.space_url is not None:
        console.print(published.space_url)


def download(
    names: Annotated[list[str], typer.Argument(help="hf-hub:ORG/NAME, perhaps with @REVISION; or a registered name.")],
) -> None:
    """Fill the Hub's cache ahead, for machines without network, and check what is there.

    Afterwards it works with HF_HUB_OFFLINE=1.

    Example: `mrcar download hf-hub:ORG/mrcar_resnet.fer2013@v1`
    """
    from ..hub import download as fill_cache

    for name in names:
        console.print(f"{name}: checked, in {fill_cache(name)}")


def models(json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List networks that are registered with timm, and weights in the package and in the Hub's cache."""
    from ..checkpoints.packaged import DEFAULT_TAGS, default_name
    from ..hub import known_weights

    architectures = list(DEFAULT_TAGS)
    known = known_weights()
    if json_output:
        registered = {name: default_name(name) for name in architectures}
        rows = [{**asdict(each), "path": str(each.path)} for each in known]
        emit(json.dumps({"registered": registered, "weights": rows}, indent=2))
        return
    for name in architectures:
        console.print(f"registered with timm: {name}; pretrained=True loads {default_name(name)}")
    for where in ("package", "cache"):
        weights = [each for each in known if each.where == where]
        if weights:
            console.print(_table(f"in the {where}", weights))


def _table(title: str, weights: list[KnownWeights]) -> Table:
    narrow = console.is_terminal  # elsewhere lines are as long as they are
    columns = (
        Column(title, overflow="fold", min_width=23),
        Column("accuracy", width=15 if narrow else None),
        Column("licence", width=14 if narrow else None),
    )
    table = Table(*columns, "MB", Column("digest", no_wrap=True), box=SIMPLE_HEAD, pad_edge=False)
    for each in weights:
        score = "" if each.accuracy is None else f"{each.accuracy:.2%}, {each.scored}"
        sha256 = f"{each.sha256}"[:8]
        state: Any = {True: sha256, None: f"{sha256}?", False: Text("damaged", "red")}[each.intact]
        table.add_row(each.name, score, each.license or "unknown", f"{each.size / 1e6:.1f}", state)
    return table
