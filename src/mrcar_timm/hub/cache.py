"""Which weights there are, in the package and in the Hub's cache; and the cache filled ahead."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import timm

from ..data.sets import DATA_SETS
from ..errors import DamagedWeightsError, UnverifiedWeightsWarning, WeightsError
from ..models.checkpoints import CHECKPOINTS, Checkpoint
from ..models.loading import default_checkpoint
from ..models.sources import (
    CONFIG_NAME,
    HUB,
    RECORD_NAME,
    WEIGHTS_NAME,
    Repository,
    check_cached,
    fetch_weights,
    hub_errors,
    read_json,
)
from ..models.weights_file import read_weights
from ..training.package import data_of
from .card import PROTOCOL_TITLES


@dataclass(frozen=True)
class KnownWeights:
    """Weights on this machine.

    Attributes:
        name: What loads them: an architecture and a tag, or "hf-hub:ORG/NAME@REVISION".
        where: "package" or "cache".
        path: Their file.
        size: In bytes.
        sha256: Digest over the tensors, computed just now; None where they are damaged.
        intact: Whether it is the digest that was written with them; None where none was.
        license: Of the weights; None where it is not known.
        accuracy: As the record has it, on the test split if that was scored; None where it is not known.
        scored: What that is of, such as "FER2013 test, ten crops".
    """

    name: str
    where: str
    path: Path
    size: int
    sha256: str | None
    intact: bool | None
    license: str | None
    accuracy: float | None
    scored: str


def download(name: str) -> Path:
    """Fill the Hub's cache with a network, check it, and return the folder; loading it then takes no network.

    Weights of the package lie there already: they are checked alone.

    Args:
        name: "hf-hub:ORG/NAME", perhaps with "@REVISION", or a registered name.

    Raises:
        WeightsError: If there are no such weights, or they are damaged. Damaged files are taken out of the cache.
        HubError: If the Hub does not give them.
    """
    if not name.startswith(HUB):
        record = CHECKPOINTS.get(name) or (default_checkpoint(name) if timm.is_model(name) else None)
        if record is None:
            raise WeightsError(
                f"no weights {name!r}; installed are {', '.join(CHECKPOINTS)}; the Hub's are {HUB}ORG/NAME"
            )
        read_weights(record.path, record.sha256, "Install the package again.")
        return record.path.parent
    repository = Repository.of(name)
    try:
        return _download(repository)
    except DamagedWeightsError:  # it may have lain in the cache for long, and is out of it now
        return _download(repository)


def _download(repository: Repository) -> Path:
    from huggingface_hub import snapshot_download

    with hub_errors(repository, "downloading"):
        files = [CONFIG_NAME, RECORD_NAME, WEIGHTS_NAME]
        folder = Path(snapshot_download(repository.id, revision=repository.revision, allow_patterns=files))
    for file in folder.glob("*.json"):
        check_cached(file)
    fetch_weights(repository.pinned(folder))
    return folder


def known_weights() -> list[KnownWeights]:
    """Weights in the package and, of registered networks, in the Hub's cache."""
    packaged = [_known(name, "package", record.path, record) for name, record in CHECKPOINTS.items()]
    return [*packaged, *_cached()]


def _cached() -> Iterator[KnownWeights]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir()
    except CacheNotFound:
        return
    for repo in sorted(cache.repos, key=lambda repo: repo.repo_id):
        for revision in sorted(repo.revisions, key=lambda revision: sorted(revision.refs)):
            folder = revision.snapshot_path
            record = None
            try:
                architecture = read_json(folder / CONFIG_NAME).get("architecture")
            except WeightsError:
                continue  # of another library, or not whole
            if architecture not in timm.list_models(module="mrcar_resnet") or not (folder / WEIGHTS_NAME).exists():
                continue
            with suppress(WeightsError):  # of weights that others published there is none
                record = Checkpoint.read(folder / RECORD_NAME)
            for ref in sorted(revision.refs) or [revision.commit_hash]:
                name = f"{HUB}{repo.repo_id}" + ("" if ref == "main" else f"@{ref}")
                yield _known(name, "cache", folder / WEIGHTS_NAME, record)


def _known(name: str, where: str, path: Path, record: Checkpoint | None) -> KnownWeights:
    sha256: str | None = None
    intact: bool | None = False
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UnverifiedWeightsWarning)
            sha256 = read_weights(path, None if record is None else record.sha256).digest
        intact = None if caught else True
    except WeightsError:
        pass
    accuracy, scored = (None, "") if record is None else _headline(record)
    size = path.stat().st_size if path.exists() else 0
    return KnownWeights(name, where, path, size, sha256, intact, record.terms if record else None, accuracy, scored)


def _headline(record: Checkpoint) -> tuple[float | None, str]:
    """The accuracy to tell first: on the test split, with ten crops, where there is one."""
    for split in ("test", "validation"):
        for protocol in ("ten", "mirror", "one"):
            accuracy = record.scores.get(split, {}).get(f"{protocol}, all")
            if accuracy is not None:
                data = DATA_SETS[next(iter(data_of(record.recipe)))].title
                return accuracy, f"{data} {split}, {PROTOCOL_TITLES[protocol]}"
    return None, ""
