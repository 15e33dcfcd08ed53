"""Weights that are not what was written: what the user sees."""

import hashlib
import json
import shutil
import struct
import warnings
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

import mrcar_timm
from mrcar_timm.checkpoints.hub_files import evict
from mrcar_timm.checkpoints.weights_file import read_weights, tensor_digest, write_weights
from mrcar_timm.errors import DamagedWeightsError, HubError, UnverifiedWeightsWarning, WeightsError
from mrcar_timm.network import load_network

from .conftest import SMALL, trainer_of
from .faults import OF_A_FOLDER, flipped, rewritten

REPO = "ORG/faces"


@pytest.mark.parametrize("fault", OF_A_FOLDER)
def test_faults_of_a_folder(published, tmp_path, fault):
    folder = shutil.copytree(published, tmp_path / "weights")
    break_it, says = OF_A_FOLDER[fault]
    break_it(folder)
    for load in (
        lambda: timm.create_model(f"local-dir:{folder}", pretrained=True),
        lambda: timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3),
        lambda: timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True),
        lambda: mrcar_timm.ExpressionRecognizer(f"local-dir:{folder}"),
        lambda: mrcar_timm.ExpressionRecognizer(folder),
    ):
        with pytest.raises(WeightsError, match=says):
            load()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda config: "[]", "holds no object"),
        (lambda config: "{", "is damaged"),
        (lambda config: json.dumps({**config, "architecture": "resnet1"}), "is of a network 'resnet1'"),
        (lambda config: json.dumps({**config, "architecture": "resnet18"}), "takes no regions of faces"),
        (lambda config: json.dumps({**config, "pretrained_cfg": 3}), "describes no network"),
        (lambda config: json.dumps({**config, "model_args": {"features_only": True}}), "gives no expressions"),
        (lambda config: json.dumps({**config, "model_args": {"widths": [8, 8, 8]}}), "have another shape"),
        (lambda config: json.dumps({**config, "model_args": {"wings": 2}}), "describes no network"),
        (lambda config: json.dumps({**config, "model_args": {"shared": True}}), "the weights lack .* tensors"),
        (lambda config: json.dumps({**config, "label_names": None}), "one for each class; it has 0 of 7"),
        (lambda config: json.dumps({**config, "mrcar": {"temperature": 1}}), "format of an earlier version"),
    ],
)
def test_faults_of_a_config(published, tmp_path, change, says):
    folder = shutil.copytree(published, tmp_path / "weights")
    (folder / "config.json").write_text(change(json.loads((folder / "config.json").read_text())))
    with pytest.raises(WeightsError, match=says):
        mrcar_timm.ExpressionRecognizer(folder)


def test_a_cache_that_may_not_be_changed(published, monkeypatch):
    """As in a container: the message says what to delete."""

    def refused(*_, **__) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "unlink", refused)
    file = published / "config.json"
    assert evict(file) == f"Delete {file}, which this user may not, to download it again."


def test_digest_by_hand(tmp_path):
    """From the bytes of the file, without torch and safetensors."""
    tensors = {
        "b": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "a": torch.tensor(7),
        "half": torch.rand(3, 2).half().t(),
        "brain": torch.rand(4).bfloat16(),
        "none": torch.zeros(0, 5),
        "bool": torch.tensor([True, False]),
    }
    path = tmp_path / "w.safetensors"
    said = write_weights(tensors, path, ["x", "y"])
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    assert (8 + length) % 8 == 0
    metadata = header.pop("__metadata__")
    assert metadata == {"digest": said, "format": "pt", "labels": '["x", "y"]'}
    types = {"F32": "float32", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"}
    text = b""
    for name in sorted(header):
        start, end = header[name]["data_offsets"]
        shape = ", ".join(str(size) for size in header[name]["shape"])
        text += f'["{name}", "{types[header[name]["dtype"]]}", [{shape}]]\n'.encode()
        text += data[8 + length + start : 8 + length + end]
    assert hashlib.sha256(text).hexdigest() == said == tensor_digest(tensors)
    read = read_weights(path, said)
    assert read.labels == ("x", "y")
    assert all(torch.equal(read.tensors[name], tensor) for name, tensor in tensors.items())


def test_any_bit_of_a_small_file_is_noticed(tmp_path):
    """Each but those that change nothing: in the padding, and in what the metadata say besides the digest."""
    path, tensors = tmp_path / "w.safetensors", {"a": torch.tensor([1.0, 2.0])}
    write_weights(tensors, path)
    whole, unnoticed = path.read_bytes(), 0
    for at in range(len(whole)):
        path.write_bytes(flipped(at)(whole))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                read = read_weights(path)
            except (WeightsError, UnverifiedWeightsWarning):
                continue
        unnoticed += 1
        assert torch.equal(read.tensors["a"], tensors["a"])
    assert 0 < unnoticed < 20


@pytest.mark.parametrize(
    ("key", "says"),
    [("branches.eyes.stages.0.0.branch1.conv.weight", "lack 1 tensors"), ("head.weight", "lack 1 tensors")],
)
def test_missing_tensors(published, tmp_path, key, says):
    """Those of the head alone may be missing, and only where it is for other classes."""
    folder = shutil.copytree(published, tmp_path / "weights")
    tensors = read_weights(folder / "model.safetensors").tensors
    del tensors[key]
    digest = write_weights(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "mrcar": {"sha256": digest}}))
    with pytest.raises(WeightsError, match=says):
        timm.create_model(f"local-dir:{folder}", pretrained=True)
    if key.startswith("head"):
        assert timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3).num_classes == 3
    else:
        with pytest.raises(WeightsError, match=says):
            timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3)


def test_weights_without_digest_warn(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors", {"format": "pt"})
    with pytest.warns(UnverifiedWeightsWarning, match="has no digest"):
        read_weights(tmp_path / "w.safetensors")


def test_runs_are_checked(fer_folder, tmp_path):
    trainer_of(SMALL, fer_folder, tmp_path / "run").fit()
    network = load_network(tmp_path / "run")
    assert network.sha256 == read_weights(tmp_path / "run/model.safetensors").digest
    rewritten(tmp_path / "run/model.safetensors", flipped(-3))
    with pytest.raises(DamagedWeightsError, match="expected the digest"):
        load_network(tmp_path / "run")


def test_errors_are_ours_and_tell_what_they_know():
    error = DamagedWeightsError(Path("w.safetensors"), "aa", "bb", "Write it again.")
    assert isinstance(error, mrcar_timm.WeightsError)
    assert issubclass(HubError, mrcar_timm.WeightsError)
    assert (error.path, error.expected, error.found) == (Path("w.safetensors"), "aa", "bb")
    assert str(error) == "w.safetensors is damaged: expected the digest aa, found bb. Write it again."
