"""Score many images: from any input, by processes here or on Ray, into a folder that can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow

from ..processes import cores
from ..version import __version__
from .inputs import find_inputs
from .local import LocalPool
from .ray_data import RayPool
from .results import Counts, Results
from .scorer import Scored, Settings
from .shards import Shard

PART_SIZE = 1000


class Pool(Protocol):
    """What scores."""

    network: dict[str, str]
    schema: pyarrow.Schema

    def score(self, shards: Sequence[Shard], done: Sequence[set[int]], part_size: int) -> Iterator[Scored]:
        """Chunks of shards, in order, with their rows; but for the parts that are done."""
        ...

    def close(self) -> None:
        """End what was started."""
        ...


class Scoring:
    """A job of scoring, in a ``with`` statement. It goes on where an earlier one stopped.

    The folder gets a Parquet file for each thousand images of a shard, in the order of the input; see
    :func:`~mrcar_timm.scoring.table.table_schema` for its columns.

    Args:
        inputs: See :func:`~mrcar_timm.scoring.inputs.find_inputs`.
        out: The folder.
        settings: How images are scored.
        workers: How many processes, or actors of Ray; one for each core if None.
        ray: Address of a cluster of Ray, or "local" for one that is started on this machine; no Ray if None.
        part_size: Images a part.
        column: The column of Parquet files that has the images.
        tell: Gets lines about what is left out.

    Attributes:
        total: Images of the input; None where archives will tell.
        before: Counts of what was done before.
        workers: How many processes or actors there are.

    Raises:
        MRCARError: If there is nothing to score, the network cannot be loaded, or the folder has results of something
            else, or is written by another process.

    Example:
        >>> with Scoring(["photos"], Path("scored")) as scoring:  # doctest: +SKIP
        ...     for counts in scoring.run():
        ...         print(counts.images, "more images")
    """

    def __init__(
        self,
        inputs: Sequence[str],
        out: Path,
        settings: Settings | None = None,
        workers: int | None = None,
        ray: str | None = None,
        part_size: int = PART_SIZE,
        column: str | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._shards = find_inputs(inputs, column, tell)
        self._part_size = part_size
        counts = [shard.count for shard in self._shards]
        self.total = None if None in counts else sum(count or 0 for count in counts)
        settings = settings or Settings()
        self._pool: Pool = LocalPool(settings, workers or cores()) if ray is None else RayPool(settings, workers, ray)
        try:
            manifest = {
                "input": [shard.identity() for shard in self._shards],
                "network": self._pool.network,
                "settings": settings.to_dict(),
                "columns": self._pool.schema.names,
                "part_size": part_size,
            }
            self._results = Results(out, manifest, {"mrcar_timm": __version__})
        except BaseException:
            self._pool.close()
            raise
        self.before = sum(self._results.done.values(), start=Counts())

    def run(self) -> Iterator[Counts]:
        """Score what is left; the counts of each chunk of images.

        Raises:
            MRCARError: If processes die whatever they do.
            OutputError: If a part cannot be written.
        """
        done = [self._results.done_of(number) for number in range(len(self._shards))]
        return self._results.write(self._pool.score(self._shards, done, self._part_size))

    def __enter__(self) -> Scoring:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.close()
        self._results.close()
