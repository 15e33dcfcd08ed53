"""Scoring on Ray Data, by a pool of actors on this machine or in a cluster."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pyarrow

from ..errors import MRCARError
from ..processes import OwnProcess, cores
from .local import LocalPool
from .scorer import Scored, Settings, cut_chunks, describe
from .shards import Shard

#: What a cluster on this machine is started with.
_LOCAL = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # by which Ray listens on the loopback alone
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
_LOOPBACK = "127.0.0.1"
_SECONDS_TO_ANSWER = 20
_READER = 0.05  # of each core is for what reads, or it would wait for ever where actors have them all
_STORE = 2**28  # bytes of the memory through which images of archives go


class RayPool:
    """Actors that score, each by a process of its own, which an image may kill: see :class:`~.local.LocalPool`.

    An actor that dies, or whose machine does, is replaced by Ray, and its chunk scored again.

    Args:
        settings: How they score.
        workers: How many there are; as many as the cluster has cores, or GPUs, if None.
        address: Address of a cluster, "auto" for the one that this machine is part of, or "local" for one that is
            started here, on the loopback and without dashboard, and ends with the pool.

    Attributes:
        network: Name and digest of the network.
        schema: Columns of the tables.

    Raises:
        MRCARError: If Ray is not installed, there is no such cluster, or the network cannot be loaded.
    """

    def __init__(self, settings: Settings, workers: int | None, address: str) -> None:
        self._settings = settings
        self._on_gpu = settings.device.startswith("cuda")
        self._ending = ExitStack()
        with OwnProcess() as process:  # which loads the network while Ray starts
            described = process.submit(describe, replace(settings, device="cpu"))
            try:
                self._start(address, workers)
                self.network, self.schema = described.result()
            except BaseException:
                self.close()
                raise

    def _start(self, address: str, workers: int | None) -> None:
        if address == "local":
            # Paths of sockets must be short.
            short = "/tmp" if os.path.isdir("/tmp") else None
            temporary = tempfile.TemporaryDirectory(prefix="ray-", dir=short, ignore_cleanup_errors=True)
            os.environ.update(_LOCAL)
            self._workers = workers or cores()
            where: dict[str, Any] = {
                "num_cpus": self._workers,
                "include_dashboard": False,
                "object_store_memory": _STORE,
                "_temp_dir": self._ending.enter_context(temporary),
            }
        else:
            _check_reachable(address)
            where = {"address": address}
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise MRCARError(f'Ray is not installed ({error}): pip install "mrcar-timm[ray]"') from error
        try:
            ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise MRCARError(f"Ray cannot be used at {address}: {error}") from error
        self._ending.callback(ray.shutdown)
        if address == "local":
            self._check_loopback(ray)
        else:
            resource = "GPU" if self._on_gpu else "CPU"
            self._workers = workers or max(1, int(ray.cluster_resources().get(resource, 1)))

    def _check_loopback(self, ray: Any) -> None:
        """Raise where Ray listens to others, as it would had this process used it before."""
        if any(node["NodeManagerAddress"] != _LOOPBACK for node in ray.nodes()):
            raise MRCARError("Ray was imported before, and listens to other machines; score in a process of its own")

    def score(self, shards: Sequence[Shard], done: Sequence[set[int]], part_size: int) -> Iterator[Scored]:
        """Chunks of shards, in order, with their rows; but for the parts that are done."""
        import ray
        from ray.exceptions import RayError

        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        context.target_max_block_size = 1  # each chunk is a block, which any actor can take
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        left = [number for number, shard in enumerate(shards) if not _is_done(shard, done[number], part_size)]
        if not left:
            return
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The minimum number of concurrent actors")  # one input is many blocks
            scored = ray.data.read_datasource(
                _chunks_of([(shards[number], number, done[number]) for number in left], part_size),
                override_num_blocks=len(left),
                num_cpus=_READER,
            ).map_batches(
                _Actor,
                fn_constructor_args=(self._settings,),
                batch_size=1,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=self._workers, max_tasks_in_flight_per_actor=2),
                num_cpus=1 - _READER,
                num_gpus=1 if self._on_gpu else None,
            )
            try:
                for block in scored.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
                    for row in block.to_pylist():
                        shard, part, number, images = pickle.loads(row["key"])
                        yield Scored(shard, part, number, images, pyarrow.ipc.open_stream(row["rows"]).read_all())
            except RayError as error:
                raise MRCARError(f"Ray gave up: {str(error).strip().splitlines()[-1]}") from error

    def close(self) -> None:
        """End the cluster, if it was started here; else leave it."""
        self._ending.close()


def _check_reachable(address: str) -> None:
    """Raise where nobody answers, for which Ray would wait without end."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    try:
        socket.create_connection((host, int(port)), timeout=_SECONDS_TO_ANSWER).close()
    except (OSError, ValueError) as error:
        raise MRCARError(f"no cluster of Ray answers at {address} ({error}); expected HOST:PORT or auto") from error


class _Actor:
    """One process that scores, for Ray."""

    def __init__(self, settings: Settings) -> None:
        self._pool = LocalPool(settings, 1)

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        (chunk,) = batch["chunk"].to_pylist()
        scored = self._pool.score_chunk(pickle.loads(chunk))
        key = (scored.shard, scored.part, scored.number, scored.images)
        return pyarrow.table({"key": [pickle.dumps(key)], "rows": [_to_bytes(scored.rows)]})


def _to_bytes(table: pyarrow.Table) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _is_done(shard: Shard, done: set[int], part_size: int) -> bool:
    """Whether nothing of a shard is left, as far as that is known without reading it."""
    return shard.count is not None and len(done) == -(-shard.count // part_size)


def _chunks_of(shards: list[tuple[Shard, int, set[int]]], part_size: int) -> Any:
    """Shards as a data source of Ray's: each is read by one task, and gives a block for each chunk."""
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    def task(shard: Shard, number: int, done: set[int]) -> ReadTask:
        def read() -> Iterator[pyarrow.Table]:
            for chunk in cut_chunks(shard, number, done, part_size):
                yield pyarrow.table({"chunk": [pickle.dumps(chunk)]})

        return ReadTask(read, BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None))

    class Chunks(Datasource):
        def estimate_inmemory_data_size(self) -> None:
            return None

        def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[ReadTask]:
            return [task(*each) for each in shards]

    return Chunks()
