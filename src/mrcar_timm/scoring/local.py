"""Scoring by processes on this machine."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain
from queue import SimpleQueue

import pyarrow

from ..errors import MRCARError
from ..processes import OwnProcess
from .scorer import Chunk, Scored, Settings, cut_chunks, describe, score_images
from .shards import Shard, Source
from .table import face_rows

#: Chunks a process that are scored or waited for: where one takes three times as long, the others go on.
AHEAD = 6
_MOST_DEATHS = 3


class LocalPool:
    """Processes that score.

    A process that dies is replaced and its chunk scored again. Where that kills it again, the images go one by one, and
    the one that does it is a row with an error.

    Args:
        settings: How they score.
        workers: How many there are.

    Attributes:
        network: Name and digest of the network.
        schema: Columns of the tables.

    Raises:
        MRCARError: If the network cannot be loaded.
    """

    def __init__(self, settings: Settings, workers: int) -> None:
        self._closing = False
        self._settings = settings
        self._processes = [OwnProcess() for _ in range(workers)]
        self._free: SimpleQueue[OwnProcess] = SimpleQueue()
        try:
            loading = [process.submit(describe, settings) for process in self._processes]
            self.network, self.schema = loading[0].result()
        except BaseException as error:
            self.close()
            if isinstance(error, BrokenProcessPool):
                raise _died() from error
            raise
        for process in self._processes:
            self._free.put(process)

    def score(self, shards: Sequence[Shard], done: Sequence[set[int]], part_size: int) -> Iterator[Scored]:
        """Chunks of shards, in order, with their rows; but for the parts that are done.

        Raises:
            MRCARError: If the processes die whatever they do, as for want of memory.
        """
        chunks = chain.from_iterable(
            cut_chunks(shard, number, done[number], part_size) for number, shard in enumerate(shards)
        )
        waiting: deque[Future[Scored]] = deque()
        with ThreadPoolExecutor(len(self._processes)) as threads:
            try:
                for chunk in chunks:
                    waiting.append(threads.submit(self.score_chunk, chunk))
                    if len(waiting) == AHEAD * len(self._processes):
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            except BaseException:
                self.close()
                threads.shutdown(cancel_futures=True)
                raise

    def score_chunk(self, chunk: Chunk) -> Scored:
        """A chunk with its rows.

        Raises:
            MRCARError: If the processes die whatever they do.
        """
        process = self._free.get()
        try:
            rows = self._tried(process, chunk.images) or self._tried(process, chunk.images)
            if rows is None:
                rows = self._one_by_one(process, chunk.images)
            return Scored(chunk.shard, chunk.part, chunk.number, len(chunk.images), rows)
        finally:
            self._free.put(process)

    def close(self) -> None:
        """End the processes."""
        self._closing = True
        for process in self._processes:
            process.kill()

    def _one_by_one(self, process: OwnProcess, images: tuple[Source, ...]) -> pyarrow.Table:
        tables, deaths = [], 0
        for image in images:
            table = self._tried(process, (image,))
            if table is None:
                deaths += 1
                if deaths == _MOST_DEATHS:
                    raise _died()
                error = MRCARError(f"{image.name}: the process that scored it died, perhaps for want of memory")
                table = pyarrow.Table.from_pylist(face_rows(image.name, error), self.schema)
            else:
                deaths = 0
            tables.append(table)
        return pyarrow.concat_tables(tables)

    def _tried(self, process: OwnProcess, images: tuple[Source, ...]) -> pyarrow.Table | None:
        """The rows of images; None if the process died, which is then replaced."""
        try:
            return process.submit(score_images, self._settings, images).result()
        except BrokenProcessPool:
            if self._closing:
                raise
            process.start()
            return None


def _died() -> MRCARError:
    return MRCARError("the processes that score die one after the other, perhaps for want of memory; try fewer workers")
