"""Files of the Hub: downloaded, kept in its cache, and checked."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ..errors import DamagedWeightsError, HubError, MRCARError, WeightsError
from .folder import CONFIG_NAME, WEIGHTS_NAME, read_folder_weights, read_json
from .record import RECORD_NAME, Record
from .weights_file import Weights, read_weights

#: Prefix of a repository's name, as in timm.
HUB = "hf-hub:"

# What goes wrong with files, and not with connections.
_OF_FILES = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG,
)  # fmt: skip

T = TypeVar("T")


@dataclass(frozen=True)
class Repository:
    """A repository on the Hub.

    Attributes:
        id: "ORG/NAME".
        revision: Branch, tag or commit; the newest state if None.
        commit: The commit that the revision was resolved to, if it was.
    """

    id: str
    revision: str | None = None
    commit: str | None = None

    @classmethod
    def of(cls, name: str) -> Repository:
        """From "ORG/NAME" or "ORG/NAME@REVISION"."""
        repo_id, at, revision = name.removeprefix(HUB).partition("@")
        if at and not revision:
            raise HubError(f"{name!r} names no revision after its @")
        return cls(repo_id, revision or None)

    def pinned(self, folder: Path) -> Repository:
        """The same at the commit that a folder of the Hub's cache holds."""
        return replace(self, commit=folder.name)

    def __str__(self) -> str:
        return HUB + self.id + (f"@{self.revision}" if self.revision else "")


@contextmanager
def hub_errors(repository: Repository, task: str) -> Iterator[None]:
    """Translate huggingface_hub errors into HubErrors that say what to do."""
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
        raise HubError(f"{start} this is no repository name, ORG/NAME ({error})") from error
    except GatedRepoError as error:
        raise HubError(f"{start} its owners give access on request; ask for it on {constants.ENDPOINT}") from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f"{start} {constants.ENDPOINT} has no such repository, or it is private; "
            "authenticate with HF_TOKEN or 'hf auth login'"
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
            f"{start} it is not in the cache, and the Hub is offline or cannot be reached ({_cause(error)}). "
            f"Where there is a network, 'mrcar download {repository}' fills the cache"
        ) from error
    except OSError as error:
        if error.errno not in _OF_FILES:  # some HTTP libraries raise them, too
            raise HubError(f"{start} {constants.ENDPOINT} failed ({_cause(error)}); try again") from error
        raise HubError(
            f"{start} the cache {constants.HF_HUB_CACHE} cannot be written ({error.strerror}); make room, or set "
            "HF_HOME to another place"
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
    """The first cause of an error, in one line."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _download(repository: Repository, name: str, cache_dir: Any = None) -> Path:
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


def _fetch(repository: Repository, name: str, read: Callable[[Path], T], cache_dir: Any = None) -> tuple[Path, T]:
    """A file from the cache, or downloaded into it, and what it says; a damaged one is downloaded once more."""
    path = _download(repository, name, cache_dir)
    try:
        return path, read(path)
    except WeightsError as damage:
        remedy = evict(path)
        try:
            path = _download(repository, name, cache_dir)
        except HubError as error:
            raise _with_remedy(damage, f"{remedy} It could not be downloaded again: {error}") from damage
    try:
        return path, read(path)
    except WeightsError as damage:
        raise _with_remedy(damage, f"{evict(path)} It came from the Hub like this.") from damage


def _with_remedy(error: WeightsError, remedy: str) -> WeightsError:
    if isinstance(error, DamagedWeightsError):
        return DamagedWeightsError(error.path, error.expected, error.found, remedy)
    return WeightsError(f"{error}. {remedy}")


def fetch_weights(repository: Repository, cache_dir: Any = None) -> tuple[Path, Weights]:
    """The weights of a repository: from the cache, or downloaded into it.

    Raises:
        HubError: If there are none in a safetensors file, or the Hub does not give them.
        DamagedWeightsError: If their digest does not fit, twice. The file is removed from the cache.
    """
    return _fetch(repository, WEIGHTS_NAME, read_weights, cache_dir)


def fetch_record(repository: Repository) -> Record:
    """The record of a repository's weights.

    Raises:
        HubError: If there is none, or the Hub does not give it.
        WeightsError: If it is damaged.
    """
    return _fetch(repository, RECORD_NAME, lambda path: Record.read(path.parent))[1]


def fetch_folder(repository: Repository, check: Callable[[Path], object] = lambda folder: None) -> Path:
    """The folder of the cache with a repository's config and weights, downloaded where they are missing.

    Args:
        repository: The repository.
        check: Called with the folder before the weights are downloaded.
    """
    config, _ = _fetch(repository, CONFIG_NAME, read_json)
    check(config.parent)
    pinned = repository.pinned(config.parent)  # even if somebody publishes in the meantime
    _, weights = fetch_weights(pinned)
    _fetch(pinned, CONFIG_NAME, lambda path: read_folder_weights(path.parent, weights))
    return config.parent


def check_folder(folder: Path, weights: Weights) -> None:
    """Check that config.json in a folder of the cache is of these weights.

    Raises:
        WeightsError: If it is not. It is removed from the cache.
    """
    try:
        read_folder_weights(folder, weights)
    except WeightsError as damage:
        raise _with_remedy(damage, evict(folder / CONFIG_NAME)) from damage


def evict(path: Path) -> str:
    """Remove a file from the Hub's cache; returns a sentence on what was done."""
    files = [path]
    while files[-1].is_symlink():  # to the blob, perhaps through one that repositories share
        files.append(files[-1].parent / os.readlink(files[-1]))
    try:
        for file in reversed(files):
            file.unlink(missing_ok=True)
    except OSError:
        return f"Delete {files[-1].resolve()}, which this user may not, to download it again."
    return "It was removed from the cache: the next call downloads it again."
