"""Weights to a repository on the Hub. The same weights a second time change nothing there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..errors import HubError
from ..models.checkpoints import Checkpoint
from ..models.sources import CONFIG_NAME, Repository, hub_errors, published_config
from ..version import __version__
from .save import Source, save


@dataclass(frozen=True)
class Publication:
    """What was published.

    Attributes:
        repository: Where the weights are, at the revision that was asked for.
        commit: Of the repository that has them.
        url: To look at.
        changed: Whether anything was new to the repository.
        record: Of the weights.
    """

    repository: Repository
    commit: str
    url: str
    changed: bool
    record: Checkpoint


def publish(
    source: Source,
    repo_id: str,
    revision: str | None = None,
    private: bool = False,
    token: str | None = None,
    labels: Sequence[str] | None = None,
    temperature: float = 1.0,
    license: str | None = None,
    data: str | None = None,
) -> Publication:
    """Write weights to a repository, which is made where there is none, and give them a tag.

    Args:
        source: See :func:`~mrcar_timm.hub.save`.
        repo_id: "ORG/NAME".
        revision: Branch that takes them, if there is one of that name; else a tag for them, which names these weights
            for good.
        private: Whether a repository that is made is private.
        token: Of a user who may write; that of ``hf auth login`` or HF_TOKEN if None.
        labels: Names of a module's classes.
        temperature: Divides a module's logits before softmax.
        license: Of a module's weights.
        data: What a module was trained on.

    Raises:
        WeightsError: If there are no such weights, or they are damaged.
        HubError: If the Hub refuses, or the revision is a tag of other weights; then nothing is changed.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token, library_name="mrcar-timm", library_version=__version__)
    with TemporaryDirectory() as folder:
        record = save(source, Path(folder), repo_id, labels, temperature, license, data)
        with hub_errors(Repository(repo_id, revision), "publishing to"):
            return _upload(api, folder, repo_id, revision, private, record)


def _upload(
    api: Any, folder: str, repo_id: str, revision: str | None, private: bool, record: Checkpoint
) -> Publication:
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    repository = Repository(repo_id, revision)
    refs = api.list_repo_refs(repo_id)
    tags = {tag.name: tag.target_commit for tag in refs.tags}
    if revision in tags:
        _check_tag(api, repository, record)
        return Publication(repository, tags[revision], f"{api.endpoint}/{repo_id}/tree/{revision}", False, record)
    branch = revision if revision in {branch.name for branch in refs.branches} else None
    before = api.repo_info(repo_id, revision=branch).sha
    message = f"{record.name}, {record.sha256[:12]}"
    commit = api.upload_folder(repo_id=repo_id, folder_path=folder, revision=branch, commit_message=message)
    tagged = revision is not None and branch is None
    if tagged:
        api.create_tag(repo_id, tag=revision, revision=commit.oid)
    return Publication(repository, commit.oid, str(commit.commit_url), tagged or commit.oid != before, record)


def _check_tag(api: Any, repository: Repository, record: Checkpoint) -> None:
    """Raise if a tag is of other weights."""
    with TemporaryDirectory() as folder:
        api.hf_hub_download(repository.id, CONFIG_NAME, revision=repository.revision, local_dir=folder)
        found = published_config(Path(folder)).get("sha256")
    if found != record.sha256:
        raise HubError(
            f"{repository} names other weights, with the digest {found}, and tags stay; choose another for those with "
            f"the digest {record.sha256}"
        )
