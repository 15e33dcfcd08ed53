"""Training by several processes: the same as by one, and nothing hangs where one of them dies."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml

from mrcar_timm import MRCARError
from mrcar_timm.training.batches import load_training
from mrcar_timm.training.engine import Trainer, read_log
from mrcar_timm.training.group import Group, joined_group
from mrcar_timm.training.recipe import Augmentation, Recipe

from .command import mrcar
from .conftest import ROOT, SMALL, replaced, trainer_of, wait_while_running

PROGRAM = Path(__file__).with_name("train_together.py")
#: All that differs from process to process is off.
EXACT = replaced(
    SMALL, batch_size=16, drop_rate=0.0, augmentation=Augmentation().times(0).to_dict(), balance=0.5, average=0.9
)


def torchrun(*command: object, processes: int = 2, **more: str) -> subprocess.Popen:
    """Start a program in several processes, as torchrun does."""
    run = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        str(processes),
        "--master-port",
        free_port(),
    ]
    return subprocess.Popen(
        [*run, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", **more},
    )  # fmt: skip


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def finish(process: subprocess.Popen) -> None:
    _, err = process.communicate(timeout=400)
    assert process.returncode == 0, err


def train(processes: int, data: Path, run: Path, recipe: Recipe, *mode: str) -> list[dict[str, torch.Tensor]]:
    """What each process has after training."""
    file = run.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(recipe.to_dict()))
    finish(torchrun(PROGRAM, data, run, file, *mode, processes=processes))
    return [torch.load(f"{run}.{rank}.pt", weights_only=True) for rank in range(processes)]


def assert_same(state: dict[str, torch.Tensor], other: dict[str, torch.Tensor], atol: float) -> None:
    assert state.keys() == other.keys()
    for key, value in state.items():
        torch.testing.assert_close(value, other[key], rtol=0, atol=atol, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_two_processes_do_what_one_does_with_the_whole_batch(optimizer, fer_folder, tmp_path):
    recipe = replaced(EXACT, optimizer=optimizer)
    (alone,) = train(1, fer_folder, tmp_path / "one", recipe, "exact")
    together = train(2, fer_folder, tmp_path / "two", recipe, "exact")
    start = trainer_of(recipe, fer_folder, tmp_path / "start").model.state_dict()
    moved = max(float((value - start[key]).abs().max()) for key, value in alone.items() if value.is_floating_point())
    assert moved > 0.01  # two epochs did something
    for state in together:
        assert_same(state, alone, atol=1e-5)
    logs = [read_log(tmp_path / run / "log.csv") for run in ("one", "two")]
    for one, two in zip(*logs, strict=True):
        for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
            assert one[name] == pytest.approx(two[name], abs=1e-3)


@pytest.mark.slow
def test_processes_stay_the_same_and_go_on_after_a_kill(fer_folder, tmp_path):
    """With batch statistics, changes and dropout of their own, killed after an epoch or later, and resumed."""
    recipe = replaced(SMALL, epochs=12, batch_size=8)
    whole, other = train(2, fer_folder, tmp_path / "whole", recipe)
    assert_same(whole, other, atol=0)
    first, second = (json.loads((tmp_path / f"whole.{rank}.json").read_text()) for rank in range(2))
    assert first["end"] <= second["begin"]  # the landmarks are found once
    file = tmp_path / "whole.yaml"
    process = torchrun(PROGRAM, fer_folder, tmp_path / "killed", file)
    wait_while_running(process, (tmp_path / "killed" / "last.pt").exists, 240)
    family = psutil.Process(process.pid).children(recursive=True)
    for each in (psutil.Process(process.pid), *family):
        each.kill()
    process.communicate()
    assert 1 <= len(read_log(tmp_path / "killed" / "log.csv")) < 12
    finish(torchrun(PROGRAM, fer_folder, tmp_path / "killed", file))
    for rank in range(2):
        assert_same(torch.load(f"{tmp_path / 'killed'}.{rank}.pt", weights_only=True), whole, atol=1e-6)
    rows, expected = (read_log(tmp_path / run / "log.csv") for run in ("killed", "whole"))
    assert [row["epoch"] for row in rows] == list(range(1, 13))
    assert [row["val_loss"] for row in rows] == pytest.approx([row["val_loss"] for row in expected], abs=1e-4)
    assert not list((tmp_path / "killed").glob(".mrcar-*"))


LONG = ("--epochs", 5000, "--batch-size", 8, "--set", f"model_args={json.dumps(SMALL.model_args)}")


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others(fer_folder, tmp_path):
    run = tmp_path / "run"
    process = torchrun("-m", "mrcar_timm", "train", "--data", fer_folder, "--run-folder", run, *LONG)
    wait_while_running(process, (run / "last.pt").exists, 240)
    workers = [
        child for child in psutil.Process(process.pid).children(recursive=True) if "mrcar_timm" in child.cmdline()
    ]
    assert len(workers) == 2
    workers[1].send_signal(signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "ChildFailedError" in err
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_ends_the_others_where_nobody_watches(victim, fer_folder, tmp_path):
    """Started by hand, as other launchers do: the one that is left says what happened, and ends."""
    run, port = tmp_path / "run", free_port()
    command = [sys.executable, "-m", "mrcar_timm", "train", "--data", fer_folder, "--run", run, *LONG]
    processes = [
        subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={
                **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1",
            },
        )
        for rank in range(2)
    ]  # fmt: skip
    wait_while_running(processes[0], (run / "last.pt").exists, 240)
    listening = {
        connection.laddr.ip
        for connection in psutil.Process(processes[1].pid).net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening <= {"127.0.0.1", "::1"}
    processes[victim].kill()
    begin = time.monotonic()
    _, err = processes[1 - victim].communicate(timeout=60)
    assert time.monotonic() - begin < 30
    assert processes[1 - victim].returncode == 1
    assert "another process of this training has ended" in " ".join(err.split())
    assert "Traceback" not in err
    processes[victim].communicate()


@pytest.mark.slow
def test_the_first_process_decides_when_to_stop_and_tells(fer_folder, tmp_path):
    run = tmp_path / "run"
    process = torchrun("-m", "mrcar_timm", "train", "--data", fer_folder, "--run-folder", run, "--minutes", 1e-4, *LONG)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert out.count("epoch 1/5000") == out.count("stopped after epoch 1 of 5000; the same command goes on") == 1
    assert [row["epoch"] for row in read_log(run / "log.csv")] == [1]
    assert err.count("train: 16 images") == 1
    # One process alone goes on with it.
    alone = mrcar("train", "--data", fer_folder, "--run", run, "--minutes", 1e-4, *LONG)
    assert alone.returncode == 0, alone.stderr
    assert "going on after epoch 1 of 5000" in alone.stderr
    assert [row["epoch"] for row in read_log(run / "log.csv")] == [1, 2]


@pytest.mark.slow
def test_what_the_first_process_cannot_do_ends_all(fer_folder, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("lr: 1.0\n")
    process = torchrun("-m", "mrcar_timm", "train", "--data", fer_folder, "--run-folder", tmp_path / "run", *LONG)
    _, err = process.communicate(timeout=240)
    assert process.returncode != 0
    assert "holds a run with another recipe" in " ".join(err.split())


@pytest.mark.slow
def test_a_loss_that_is_not_a_number_ends_all(fer_folder, tmp_path):
    process = torchrun(
        "-m", "mrcar_timm", "train", "--data", fer_folder, "--run-folder", tmp_path / "run", "--lr", 1e30, *LONG
    )
    _, err = process.communicate(timeout=240)
    assert process.returncode != 0
    assert "error: the loss is not a number in epoch" in " ".join(err.split())


def test_a_step_has_two_images_for_each_process(fer_folder, tmp_path):
    recipe = replaced(SMALL, batch_size=8)
    splits = load_training(recipe, fer_folder)
    with pytest.raises(MRCARError, match="8 images a step are too few for 5 processes"):
        Trainer(recipe, *splits, tmp_path / "run", group=Group(1, 5, 1))


def test_shares_of_a_batch_are_the_batch(fer_folder):
    train_split, _ = load_training(EXACT, fer_folder)

    def passed(share: tuple[int, int]) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(7)
        train_split.batches.targets = torch.arange(len(train_split.batches))  # which images they are
        return [rows for _, rows in train_split.batches.training(7, EXACT.augmentation, generator, share)]

    whole = passed((0, 1))
    assert [len(batch) for batch in whole] == [7, 7]
    parts = [passed((part, 3)) for part in range(3)]
    for number, batch in enumerate(whole):
        assert [len(each[number]) for each in parts] == [3, 2, 2]
        assert torch.equal(torch.cat([each[number] for each in parts]), batch)


def test_one_process_is_alone(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # as some clusters set for other ends
    with joined_group() as group:
        assert group == Group()
    assert group.own("cuda") == "cuda"
    assert Group(3, 4, 1).own("cuda") == "cuda:1"
    assert Group(3, 4, 1).own("cpu") == "cpu"
