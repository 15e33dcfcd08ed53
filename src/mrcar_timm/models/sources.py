"""Where weights come from: the package, a folder, or the Hub and its cache. What is not intact goes no further.

The Hub's client checks how long a file is, not what it says, and keeps it in its cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import DamagedWeightsError, HubError, MRCARError, WeightsError
from .checkpoints import CHECKPOINTS
from .weights_file import Weights, read_weights

#: What stands before a repository's or a folder's name, as in timm.
HUB, FOLDER = "hf-hub:", "local-dir:"

WEIGHTS_NAME, CONFIG_NAME, RECORD_NAME = "model.safetensors", "config.json", "record.json"


@dataclass(frozen=True)
class Repository:
    """A repository on the Hub.

    Attributes:
        id: "ORG/NAME".
        revision: Branch, tag or commit; the newest state if None.
        commit: What the revision was when it was looked up, if it was.
    """

    id: str
    revision: str | None = None
    commit: str | None = None

    @classmethod
    def of(cls, name: str) -> Repository:
        """From "ORG/NAME" or "ORG/NAME@REVISION"."""
        repo_id, at, revision = name.removeprefix(HUB).partition("@")
        if at and not revision:
            raise HubError(f"{name!r} names no revision behind its @")
        return cls(repo_id, revision or None)

    def pinned(self, folder: Path) -> Repository:
        """The same at the commit whose files a folder of the Hub's cache has."""
        return replace(self, commit=folder.name)

    def __str__(self) -> str:
        return HUB + self.id + (f"@{self.revision}" if self.revision else "")


@contextmanager
def hub_errors(repository: Repository, task: str) -> Iterator[None]:
    """Say of what the Hub's client raises what it means and what helps."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    start = f"{task} {repository}:"
    try:
        yield
    except MRCARError:
        raise
    except HFValidationError as error:
        raise HubError(f"{start} the name is none of a repository, ORG/NAME ({error})") from error
    except GatedRepoError as error:
        raise HubError(f"{start} its owners give access on request; ask for it on {constants.ENDPOINT}") from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f"{start} {constants.ENDPOINT} has no such repository, or shows it to others alone; "
            "'hf auth login' or HF_TOKEN says who you are"
        ) from error
    except RevisionNotFoundError as error:
        raise HubError(f"{start} there is no revision {repository.revision!r}") from error
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        refused = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
        if isinstance(refused, EntryNotFoundError):
            raise HubError(f"{start} there is no such file") from error
        if isinstance(refused, HfHubHTTPError):
            raise HubError(f"{start} {constants.ENDPOINT} answered {_answer(refused)}") from error
        raise HubError(
            f"{start} it is not in the cache, and the Hub is switched off or out of reach ({_cause(error)}). "
            f"Where there is a network, 'mrcar download {repository}' fills the cache"
        ) from error
    except Exception as error:  # whatever its HTTP library raises, which has changed before
        raise HubError(
            f"{start} {constants.ENDPOINT} failed ({type(error).__name__}: {_cause(error)}); try again"
        ) from error


def _answer(error: Any) -> str:
    """The status that the Hub answered with, and what helps."""
    status = error.response.status_code
    helps = {
        401: "the token is missing or wrong: 'hf auth login', or HF_TOKEN",
        403: "the token does not allow it",
        429: "too many requests; wait some minutes",
    }
    return f"{status}; {helps.get(status, 'try again')}"


def _cause(error: BaseException) -> str:
    """What started it, in one line."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _download(repository: Repository, name: str, cache_dir: Any) -> Path:
    from huggingface_hub import hf_hub_download

    with hub_errors(repository, f"{name} of"):
        file = hf_hub_download(
            repository.id,
            name,
            revision=repository.commit or repository.revision,
            cache_dir=cache_dir,
            library_name="mrcar-timm",
        )
    return Path(file)


def fetch(repository: Repository, name: str, cache_dir: Any = None) -> Path:
    """A file of a repository: from the cache, or downloaded into it.

    Raises:
        HubError: If there is no such file, or the Hub does not give it.
        DamagedWeightsError: If it is another one than the Hub announced. It is taken out of the cache.
    """
    path = _download(repository, name, cache_dir)
    check_cached(path)
    return path


def fetch_weights(repository: Repository, cache_dir: Any = None) -> tuple[Path, Weights]:
    """The weights of a repository: from the cache, or downloaded into it.

    Raises:
        HubError: If there are none in a safetensors file, or the Hub does not give them.
        DamagedWeightsError: If a digest does not fit. The file is taken out of the cache.
    """
    path = _download(repository, WEIGHTS_NAME, cache_dir)
    try:
        weights = read_weights(path)
    except DamagedWeightsError as error:
        raise DamagedWeightsError(path, error.expected, error.found, evict(path)) from error
    check_cached(path)
    return path, weights


def check_cached(path: Path) -> None:
    """Check a file of the Hub's cache against the digest that it is filed under.

    Raises:
        DamagedWeightsError: If it is another one. It is taken out of the cache.
    """
    filed = "".join(link.name for link in _links(path)[1:2])  # nothing on a file system without links
    data = path.read_bytes()
    if re.fullmatch("[0-9a-f]{64}", filed):  # large files
        found = [hashlib.sha256(data).hexdigest()]
    elif re.fullmatch("[0-9a-f]{40}", filed):  # small ones: git's digest, or from some mirrors that of the file alone
        found = [hashlib.sha1(start + data).hexdigest() for start in (b"blob %d\0" % len(data), b"")]
    else:
        return
    if filed not in found:
        raise DamagedWeightsError(path, filed, found[0], evict(path))


def _links(path: Path) -> list[Path]:
    """A file of the cache and what it links to: the blob under its digest, perhaps through it one that is shared."""
    links = [path]
    while links[-1].is_symlink():
        links.append(links[-1].parent / os.readlink(links[-1]))
    return links


def evict(path: Path) -> str:
    """Take a file out of the Hub's cache; returns a sentence on what was done."""
    *links, blob = _links(path)
    try:
        for file in (blob, *links):
            file.unlink(missing_ok=True)
    except OSError:
        return f"Delete {blob.resolve()}, which this user may not, to have it downloaded anew."
    return "It was taken out of the cache: the next call downloads it anew."


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file with an object.

    Raises:
        WeightsError: If it is missing, or holds none.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsError(f"{path} is missing") from error
    except ValueError as error:  # no JSON, or no UTF-8
        raise WeightsError(f"{path} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise WeightsError(f"{path} is damaged: it holds no object")
    return values


def published_config(folder: Path) -> dict[str, Any]:
    """What a config.json says for this package alone: "sha256" and "temperature"; nothing where timm wrote it."""
    values = read_json(folder / CONFIG_NAME).get("mrcar", {})
    return values if isinstance(values, dict) else {}


def verified_weights(cfg: Any, cache_dir: Any = None) -> Path:
    """The file with the weights that a pretrained cfg of timm's means, once it has been checked.

    Args:
        cfg: A :class:`timm.models.PretrainedCfg`.
        cache_dir: The Hub's cache; the usual one if None.

    Raises:
        WeightsError: If there are no weights, they are no safetensors, or their classes are others than the cfg says.
        DamagedWeightsError: If a digest does not fit.
    """
    name = f"{cfg.architecture}.{cfg.tag}"
    if cfg.source == "hf-hub":
        path, weights = fetch_weights(Repository.of(cfg.hf_hub_id), cache_dir)
        check_cached(path.with_name(CONFIG_NAME))  # what timm made the network from
    elif cfg.source == "local-dir":
        path = Path(cfg.file) / WEIGHTS_NAME
        weights = read_weights(path)
    elif cfg.file and Path(cfg.file).suffix == ".safetensors":
        path, record = Path(cfg.file), CHECKPOINTS.get(name)
        if record is not None and path == record.path:
            read_weights(path, record.sha256, "Install the package again.")
        else:
            read_weights(path)
        return path
    elif cfg.hf_hub_id and not cfg.file:
        return fetch_weights(Repository.of(cfg.hf_hub_id), cache_dir)[0]
    else:
        raise WeightsError(f"{name} has no weights in a safetensors file; pickles are not read")
    expected = published_config(path.parent).get("sha256", weights.digest)
    if expected != weights.digest:
        raise DamagedWeightsError(path, expected, weights.digest, f"{CONFIG_NAME} beside it is of other weights.")
    labels = read_json(path.with_name(CONFIG_NAME)).get("label_names")
    if weights.labels and labels and tuple(labels) != weights.labels:
        raise WeightsError(
            f"the weights in {path} know the classes {', '.join(weights.labels)}, in this order, but {CONFIG_NAME} "
            f"beside them says {', '.join(labels)}"
        )
    return path
