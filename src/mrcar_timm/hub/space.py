"""A Space on the Hugging Face Hub: the page of ``mrcar demo`` for a published network."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..checkpoints.hub_files import Repository, hub_errors
from ..checkpoints.record import Record
from ..output import write_text
from ..version import __version__

#: The version of Gradio that a Space is told to install: the one that the page is tested with.
GRADIO = "6.31.0"

_APP = '''"""Facial expressions by {network}."""

from mrcar_timm.demo import launch

launch(["{network}"], host="0.0.0.0", port=7860)
'''
_REQUIREMENTS = """\
--extra-index-url https://download.pytorch.org/whl/cpu
mrcar-timm[demo]>={version}
"""


def save_space(folder: Path, space_id: str, network: Repository, record: Record) -> None:
    """Write the folder of a Space: app.py, requirements.txt and README.md.

    Args:
        folder: Folder to write.
        space_id: "ORG/NAME" of the Space.
        network: The published network that it shows.
        record: The record of its weights.

    Raises:
        OutputError: If it cannot be written.
    """
    write_text(folder / "app.py", _APP.format(network=network))
    write_text(folder / "requirements.txt", _REQUIREMENTS.format(version=__version__))
    write_text(folder / "README.md", _render(space_id, network, record))


def _render(space_id: str, network: Repository, record: Record) -> str:
    import jinja2
    from huggingface_hub import SpaceCardData

    title = space_id.split("/")[-1]
    metadata = SpaceCardData(
        title=title,
        emoji="🙂",
        sdk="gradio",
        sdk_version=GRADIO,
        app_file="app.py",
        license="other",
        models=[network.id],
        tags=["facial-expression-recognition", "mrcar"],
    )
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    template = environment.from_string(files(__package__).joinpath("space.md").read_text(encoding="utf-8"))
    return template.render(
        metadata=metadata.to_yaml(),
        title=title,
        space_id=space_id,
        network=network,
        record=record,
    )


def publish_space(api: Any, space_id: str, network: Repository, record: Record, private: bool = False) -> str:
    """Publish a Space, which is created if it does not exist.

    Args:
        api: :class:`huggingface_hub.HfApi` of a user who may write.
        space_id: "ORG/NAME" of the Space.
        network: The published network that it shows.
        record: The record of its weights.
        private: Whether a Space that is created is private.

    Returns:
        The address of its page.

    Raises:
        HubError: If the Hub refuses.
    """
    with TemporaryDirectory() as place, hub_errors(Repository(space_id), "publishing to"):
        save_space(Path(place), space_id, network, record)
        url = api.create_repo(space_id, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
        message = f"the page for {network}"
        api.upload_folder(repo_id=space_id, repo_type="space", folder_path=place, commit_message=message)
        return str(url)
