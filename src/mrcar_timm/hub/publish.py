"""Publish weights to a repository on the Hub. Publishing the same weights twice is a no-op."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..checkpoints.hub_files import Repository, hub_errors
from ..checkpoints.record import RECORD_NAME, Record
from ..errors import HubError
from ..version import __version__
from .save import Source, save
from .space import publish_space


@dataclass(frozen=True)
class Publication:
    """A published network.

    Attributes:
        repository: The repository, at the revision that was asked for.
        commit: The commit with the weights.
        url: A page to look at.
        changed: Whether anything was new to the repository.
        record: The record of the weights.
        space_url: The page of the Space, if one was asked for.
    """

    repository: Repository
    commit: str
    url: str
    changed: bool
    record: Record
    space_url: str | None = None


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
    space: str | None = None,
) -> Publication:
    """Publish weights to a repository, which is created if it does not exist, and tag them.

    Args:
        source: See :func:`~mrcar_timm.hub.save`.
        repo_id: "ORG/NAME".
        revision: An existing branch to publish to; else a new tag, which names these weights for good.
        private: Whether a repository that is created is private.
        token: Token of a user who may write; the one of HF_TOKEN or ``hf auth login`` if None.
        labels: Names of a module's classes.
        temperature: Divides a module's logits; it goes into the head.
        license: License of a module's weights.
        data: Description of a module's training data.
        space: "ORG/NAME" of a Space that shows the page of ``mrcar demo`` for these weights, published after them.

    Raises:
        WeightsError: If there are no such weights, or they are damaged.
        HubError: If the Hub refuses, or the revision is a tag of other weights; then nothing is changed.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token, library_name="mrcar-timm", library_version=__version__)
    with TemporaryDirectory() as folder:
        record = save(source, Path(folder), repo_id, labels, temperature, license, data)
        with hub_errors(Repository(repo_id, revision), "publishing to"):
            published = _upload(api, folder, repo_id, revision, private, record)
    if space is None:
        return published
    return replace(published, space_url=publish_space(api, space, published.repository, record, private))


def _upload(api: Any, folder: str, repo_id: str, revision: str | None, private: bool, record: Record) -> Publication:
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


def _check_tag(api: Any, repository: Repository, record: Record) -> None:
    """Raise if a tag is of other weights."""
    with TemporaryDirectory() as folder:
        api.hf_hub_download(repository.id, RECORD_NAME, revision=repository.revision, local_dir=folder)
        found = Record.read(Path(folder)).sha256
    if found != record.sha256:
        raise HubError(
            f"{repository} names other weights, with the digest {found}, and tags stay; choose another for those with "
            f"the digest {record.sha256}"
        )
