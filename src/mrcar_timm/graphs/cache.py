"""Networks exported once and kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress

from ..checkpoints.folder import model_args
from ..errors import WeightsError
from ..exported import Session, read_checked
from ..layers.untouched import is_untouched
from ..network import Network
from ..output import write_bytes
from ..user_cache import optional, user_cache
from .network import network_graph

_VERSION = 2  # raise when the same network is exported in another way


def cached_session(network: Network) -> Session:
    """A session of a network for regions, which is exported if it is not in the cache, or damaged there.

    Where the cache cannot be written, or the network has no description to know it by, such as one with hooks, it is
    exported each time.

    Raises:
        ExportError: If it cannot be exported.
        MRCARError: If what exports is not installed.
    """
    try:
        if not all(map(is_untouched, network.model.modules())):
            raise WeightsError("its hooks have no name")
        what = [_VERSION, network.sha256, type(network.model).__name__, model_args(network.model), network.size]
    except WeightsError:  # classes of the caller's, which have no name
        return Session(content=network_graph(network).SerializeToString())
    key = hashlib.sha256(json.dumps([*what, network.name, network.mean, network.std, network.labels]).encode())
    folder, name = user_cache() / "onnx", key.hexdigest()[:20]
    for file in folder.glob(f"{name}-*.onnx"):
        expected = file.stem.split("-")[1]
        try:
            read_checked(file, expected)
            return Session(file, expected)
        except WeightsError:  # damaged, or another process has just removed it
            with suppress(OSError):
                file.unlink()
    content = network_graph(network).SerializeToString()
    digest = hashlib.sha256(content).hexdigest()
    with optional("the exported network", folder):
        file = folder / f"{name}-{digest}.onnx"
        write_bytes(file, content)
        return Session(file, digest)
    return Session(content=content)
