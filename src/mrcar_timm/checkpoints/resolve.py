"""Resolve the name of a network, for the recognizer, the command line, training and the Hub alike."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import timm
from timm.models import split_model_name_tag

from ..errors import WeightsError
from .folder import CONFIG_NAME, FOLDER, WEIGHTS_NAME, read_config
from .hub_files import HUB, Repository, fetch_folder, fetch_record
from .packaged import PACKAGED, WEIGHTS_DIR, default_name
from .record import Record


class NameWarning(UserWarning):
    """A folder has the name of a registered network, which is what was loaded."""


@dataclass(frozen=True)
class Source:
    """The origin of a network.

    Attributes:
        name: The name that was given, with its tag.
        registered: Whether timm makes it from its name.
        local: Its folder, if it has one on this machine.
        repository: Its repository, if it is on the Hub.
    """

    name: str
    registered: bool = False
    local: Path | None = None
    repository: Repository | None = None

    def folder(self) -> Path:
        """The folder with its files, downloaded if they are on the Hub.

        Raises:
            WeightsError: If there is no network in it.
            HubError: If the Hub does not give them.
        """
        if self.repository is not None:
            return fetch_folder(self.repository, read_config)
        read_config(self._local())
        return self._local()

    def record(self) -> Record:
        """The record of its weights.

        Raises:
            WeightsError: If there is none.
        """
        if self.repository is not None:
            return fetch_record(self.repository)
        return Record.read(self._local())

    def _local(self) -> Path:
        if self.local is None:
            raise WeightsError(f"{self.name} is registered with timm by another package and has no folder")
        return self.local


def resolve(spec: str | Path | None = None) -> Source:
    """Resolve the name of a network.

    A registered name always means the registered network, also where a file or folder has that name; a
    :class:`NameWarning` says so then.

    Args:
        spec: A registered name such as "mrcar_resnet" or "mrcar_resnet.fer2013"; "hf-hub:ORG/NAME", perhaps with
            "@REVISION"; "local-dir:FOLDER"; a folder, or the ``model.safetensors`` in it, by its path; the default
            weights of the recognizer if None.

    Raises:
        WeightsError: If it means nothing.

    Example:
        >>> resolve("mrcar_resnet").name
        'mrcar_resnet.fer2013'
    """
    name = default_name() if spec is None else str(spec)
    if name.startswith(HUB):
        return Source(name, repository=Repository.of(name))
    if name.startswith(FOLDER):
        return _folder(Path(name.removeprefix(FOLDER)), name)
    architecture, tag = split_model_name_tag(name)
    known = timm.is_model(architecture) and not isinstance(spec, Path)
    if known and not tag and architecture in {each.split(".")[0] for each in PACKAGED}:
        _warn_of_folder(name)
        name = default_name(architecture)
        return Source(name, True, WEIGHTS_DIR / name)
    if known and (name in PACKAGED or timm.models.is_model_pretrained(name)):
        _warn_of_folder(name)
        return Source(name, True, WEIGHTS_DIR / name if name in PACKAGED else None)
    path = Path(name)
    if path.exists() or os.sep in name or "/" in name:
        return _folder(path, name)
    if known:
        raise WeightsError(f"no weights {name!r}; installed are {', '.join(PACKAGED)}")
    raise WeightsError(f"{name!r} is no registered network, no folder, and not {HUB}ORG/NAME")


def _folder(path: Path, name: str) -> Source:
    if path.name == WEIGHTS_NAME and path.is_file():
        path = path.parent
    if not path.is_dir():
        raise WeightsError(
            f"{path}: no such folder" if not path.exists() else f"{path} is no folder with {CONFIG_NAME}"
        )
    return Source(name, local=path)


def _warn_of_folder(name: str) -> None:
    if Path(name).exists():
        warnings.warn(
            f"{name} is the registered network; for the folder of that name write {FOLDER}{name}", NameWarning, 4
        )
