"""List the weights in the package and in the Hub's cache, and fill the cache ahead of use."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..checkpoints.folder import ARCHITECTURES, CONFIG_NAME, WEIGHTS_NAME, read_folder_weights, read_json
from ..checkpoints.hub_files import HUB, fetch_record
from ..checkpoints.packaged import PACKAGED, WEIGHTS_DIR
from ..checkpoints.record import Record
from ..checkpoints.resolve import resolve
from ..checkpoints.verify import read_packaged_weights
from ..checkpoints.weights_file import read_weights
from ..errors import HubError, UnverifiedWeightsWarning, WeightsError
from .card import PROTOCOL_TITLES


@dataclass(frozen=True)
class KnownWeights:
    """Weights on this machine.

    Attributes:
        name: The name that loads them: an architecture and a tag, or "hf-hub:ORG/NAME@REVISION".
        where: "package" or "cache".
        path: The file.
        size: In bytes.
        sha256: Digest over the tensors, computed just now; None where they are damaged.
        intact: Whether the digest is the one that was written with them; None where none was.
        license: License of the weights; None where unknown.
        accuracy: Accuracy in the record, on the test split if that was scored; None where unknown.
        scored: Data set, split and protocol of the accuracy, such as "FER2013 test, ten crops".
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
    """Fill the Hub's cache with a network, check it, and return its folder; loading it then needs no network.

    Weights on this machine are only checked.

    Args:
        name: "hf-hub:ORG/NAME", perhaps with "@REVISION", or another name of a network.

    Raises:
        WeightsError: If there are no such weights, or they are damaged. Damaged files are removed from the cache.
        HubError: If the Hub does not give them.
    """
    source = resolve(name)
    folder = source.folder()
    if source.repository is not None:
        with suppress(HubError):  # weights that others published have no record
            fetch_record(source.repository.pinned(folder))
    elif source.registered:
        read_packaged_weights(source.name)
    else:
        read_folder_weights(folder)
    return folder


def known_weights() -> list[KnownWeights]:
    """Weights in the package and, of registered networks, in the Hub's cache."""
    packaged = [_known(name, "package", WEIGHTS_DIR / name / WEIGHTS_NAME, record) for name, record in PACKAGED.items()]
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
            if architecture not in ARCHITECTURES or not (folder / WEIGHTS_NAME).exists():
                continue
            with suppress(WeightsError):  # of weights that others published there is none
                record = Record.read(folder)
            for ref in sorted(revision.refs) or [revision.commit_hash]:
                name = f"{HUB}{repo.repo_id}" + ("" if ref == "main" else f"@{ref}")
                yield _known(name, "cache", folder / WEIGHTS_NAME, record)


def _known(name: str, where: str, path: Path, record: Record | None) -> KnownWeights:
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


def _headline(record: Record) -> tuple[float | None, str]:
    """The accuracy to show: on the test split, with ten crops, where there is one."""
    for split in ("test", "validation"):
        for protocol in ("ten", "mirror", "one"):
            row = record.scores.get(split, {}).get(f"{protocol}, all")
            if row is not None:
                return row["accuracy"], f"{record.data[0]['title']} {split}, {PROTOCOL_TITLES[protocol]}"
    return None, ""
