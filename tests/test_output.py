"""Nothing that is written destroys what was there: inputs, other outputs, or the same file as it was."""

import csv
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrcar_timm.errors import MRCARError, OutputError
from mrcar_timm.frames import VideoReader, VideoWriter
from mrcar_timm.output import check_outputs, remove_partial, replacing, write_csv, write_text
from mrcar_timm.training.engine import read_log

from .command import mrcar
from .conftest import EXAMPLES, vote, wait_while_running


@pytest.fixture
def photo(tmp_path):
    return Path(shutil.copy(EXAMPLES / "collins.jpg", tmp_path / "photo.jpg"))


def contents(folder):
    """Every file below a folder, hidden ones too."""
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt, SystemExit])
def test_what_was_there_stays_until_the_end(tmp_path, stop):
    file = tmp_path / "labels.txt"
    file.write_text("before")

    def fail():
        with replacing(file) as partial:
            partial.write_text("half")
            assert file.read_text() == "before"
            raise stop

    with pytest.raises(stop):
        fail()
    assert contents(tmp_path) == {file: b"before"}
    with replacing(file) as partial:
        partial.write_text("after")
    assert contents(tmp_path) == {file: b"after"}


def test_folders_are_made_and_nothing_is_left_of_a_failure(tmp_path):
    write_text(tmp_path / "a/b/c.txt", "text")
    assert (tmp_path / "a/b/c.txt").read_text() == "text"
    for wrong in (tmp_path / "a", tmp_path / "a/b/c.txt/d.txt", tmp_path / ("x" * 300)):
        with pytest.raises(OutputError, match=f"{wrong}: "):
            write_text(wrong, "text")
    assert list(contents(tmp_path)) == [tmp_path / "a/b/c.txt"]


def test_links_stay_links_and_permissions_stay(tmp_path):
    file, link = tmp_path / "file.txt", tmp_path / "link.txt"
    file.write_text("before")
    file.chmod(0o640)
    link.symlink_to(file)
    write_text(link, "after")
    assert link.is_symlink()
    assert file.read_text() == "after"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_new_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "usual.txt").write_text("")
    write_text(tmp_path / "ours.txt", "")
    assert (tmp_path / "ours.txt").stat().st_mode == (tmp_path / "usual.txt").stat().st_mode


def test_devices_and_pipes_are_written_not_replaced(tmp_path):
    write_text(Path("/dev/null"), "text")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(OutputError, match=r"/dev/full: cannot be written \(No space left on device\)"):
        write_text(Path("/dev/full"), "text")
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "text")
    assert os.read(reader, 10) == b"text"
    os.close(reader)
    assert list(tmp_path.iterdir()) == [tmp_path / "pipe"]


def test_names_that_are_no_utf8_are_written_as_escapes(tmp_path):
    write_csv(tmp_path / "files.csv", ["file"], [["caf\udce9.jpg"]])
    assert (tmp_path / "files.csv").read_text(encoding="utf-8").splitlines() == ["file", r"caf\udce9.jpg"]


def test_what_a_killed_process_left_is_removed(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from mrcar_timm.output import replacing\n"
        "with replacing(Path(sys.argv[1])) as partial:\n"
        "    partial.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    file = tmp_path / "labels.txt"
    file.write_text("before")
    subprocess.run([sys.executable, "-c", code, str(file)], check=False)
    assert len(contents(tmp_path)) == 2
    assert file.read_text() == "before"
    remove_partial(tmp_path)
    assert contents(tmp_path) == {file: b"before"}


def names_of(file: Path, folder: Path) -> list[Path]:
    """Other spellings of the same file."""
    (folder / "link").symlink_to(file)
    (folder / "links").symlink_to(file.parent)
    (folder / "hard").hardlink_to(file)
    return [
        file, Path(os.path.relpath(file)), file.parent / "../" / file.parent.name / file.name,
        folder / "link", folder / "links" / file.name, folder / "hard",
    ]  # fmt: skip


def test_a_file_is_known_by_any_name(photo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("names")
    for name in names_of(photo, folder):
        with pytest.raises(OutputError, match="is the image itself"):
            check_outputs([None, name], [photo], "the image")
        with pytest.raises(OutputError, match="are the same file"):
            check_outputs([photo, Path(str(name))])
    check_outputs([photo.with_name("other.jpg"), None, photo.with_name("third.jpg")], [photo])
    with pytest.raises(OutputError, match="are the same file"):
        check_outputs([photo.with_name("new.csv"), photo.parent / "../" / photo.parent.name / "new.csv"])


@pytest.fixture
def clip(tmp_path, portrait):
    with VideoWriter(tmp_path / "clip.mp4") as writer:
        for k in range(5):
            writer.write(np.asarray(portrait), k / 25)
    return tmp_path / "clip.mp4"


def test_no_output_of_predict_and_video_is_an_input(photo, clip, tmp_path, tmp_path_factory):
    others = tmp_path_factory.mktemp("names")
    commands = [["predict", photo, "--annotate", name] for name in names_of(photo, others) if name.suffix == ".jpg"]
    commands += [
        ["predict", tmp_path, "--annotate", photo],
        ["predict", photo, clip, "--annotate", photo],
        ["video", clip, "--out", clip],
        ["video", clip, "--csv", clip],
        ["video", clip, "--csv", tmp_path / "." / "clip.mp4"],
        ["video", clip, "--out", tmp_path / "new.mp4", "--csv", tmp_path / "x/../new.mp4"],
    ]  # fmt: skip
    before = contents(tmp_path)
    for command in commands:
        done = mrcar(*command)
        assert done.returncode == 1, command
        assert "Traceback" not in done.stderr
        assert contents(tmp_path) == before, command
    assert "is the video itself" in mrcar("video", clip, "--out", clip).stderr
    assert "is the image itself" in mrcar("predict", photo, "--annotate", photo).stderr


def test_an_annotated_image_is_never_written_over_another_photo(photo, tmp_path):
    """The name that the annotated image gets is that of another photo."""
    shutil.copy(EXAMPLES / "group.jpg", tmp_path / "photo_jpg.png")
    before = contents(tmp_path)
    done = mrcar("predict", tmp_path, "--annotate", tmp_path)
    assert done.returncode == 1
    assert f"{tmp_path / 'photo_jpg.png'} is the image itself" in done.stderr
    assert contents(tmp_path) == before


@pytest.fixture
def labelled(tmp_path, photo):
    folder = tmp_path / "own"
    for name in ("smile", "other"):
        (folder / name).mkdir(parents=True)
        shutil.copy(photo, folder / name / "1.jpg")
    write_csv(folder / "labels.csv", ["path", "label"], [["smile/1.jpg", "smile"], ["other/1.jpg", "other"]])
    return folder


def test_no_output_of_other_commands_is_an_input(labelled, fer_folder, tmp_path):
    table = labelled / "labels.csv"
    for name in ("log.csv", "left_out.csv"):
        shutil.copy(table, labelled / name)
    commands = [
        ["data", "check", labelled, "--out", table],
        ["data", "check", table, "--out", table],
        ["data", "check", labelled, "--out", labelled / "smile/1.jpg"],
        ["data", "check", fer_folder, "--out", fer_folder / "ferplus.csv"],
        ["robustness", "--data", labelled, "--model", "mrcar_resnet", "--out", labelled / "smile/1.jpg"],
        ["robustness", "--data", table, "--model", "mrcar_resnet", "--out", table],
        ["train", "--data", labelled, "--run", labelled],
        ["train", "--data", labelled, "--run", labelled / "run"],
        ["train", "--data", labelled / "log.csv", "--run", labelled, "--recipe", "finetune"],
        ["train", "--data", labelled / "left_out.csv", "--run", labelled, "--recipe", "finetune"],
        ["eval", "--data", labelled, "--model", "mrcar_resnet", "--out", labelled / "smile"],
        ["average", labelled, labelled, "--data", labelled, "--run", labelled / "run"],
        ["bench", "faces", labelled / "smile/1.jpg", "--out", labelled / "smile/1.jpg"],
        ["crossval", "--data", labelled, "--run", labelled / "run"],
        ["ablate", "--data", labelled, "--run", labelled],
        ["train", "--data", fer_folder, "--run", fer_folder],
    ]  # fmt: skip
    vote(fer_folder, {"other.png": {"fear": 10}})
    before = contents(tmp_path)
    for command in commands:
        done = mrcar(*command)
        assert done.returncode == 1, command
        assert "name another" in done.stderr, command
        assert contents(tmp_path) == before, command


def test_two_photos_of_one_name(tmp_path):
    for name, source in (("happy", "collins"), ("sad", "group"), ("Happy", "collins")):
        (tmp_path / "in" / name).mkdir(parents=True)
        shutil.copy(EXAMPLES / f"{source}.jpg", tmp_path / "in" / name / "1.jpg")
    done = mrcar("predict", tmp_path / "in", "--annotate", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    places = [file.relative_to(tmp_path / "out").as_posix() for file in sorted(contents(tmp_path / "out"))]
    assert places == ["Happy/1_jpg.png", "happy/1_jpg-2.png", "sad/1_jpg.png"]  # apart, also where case does not count
    assert sum(f"{tmp_path}/in/sad/1.jpg" in line for line in done.stdout.splitlines()) == 5
    by_name = [tmp_path / "in" / name / "1.jpg" for name in ("happy", "sad")]
    done = mrcar("predict", *by_name, "--annotate", tmp_path / "flat", "--json")
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [result["file"] for result in results] == list(map(str, by_name))
    assert [Path(result["annotated"]).name for result in results] == ["1_jpg.png", "1_jpg-2.png"]
    widths = [Image.open(result["annotated"]).width for result in results]
    assert widths == [512, 640]


def test_a_folder_of_one_photo_and_a_target_without_suffix(photo, tmp_path):
    (tmp_path / "in").mkdir()
    photo.rename(tmp_path / "in/photo.jpg")
    done = mrcar("predict", tmp_path / "in", "--annotate", tmp_path / "out.d")
    assert done.returncode == 0, done.stderr
    assert list(contents(tmp_path / "out.d")) == [tmp_path / "out.d/photo_jpg.png"]
    assert mrcar("predict", tmp_path / "in/photo.jpg", "--annotate", tmp_path / "one").returncode == 0
    assert list(contents(tmp_path / "one")) == [tmp_path / "one/photo_jpg.png"]


def test_targets_that_cannot_be(photo, tmp_path):
    for target, message in (("out.jgp", "no format of images is called .jgp"), ("out.png", "name a folder for 2")):
        files = [photo] if "jgp" in target else [photo, photo]
        done = mrcar("predict", *files, "--annotate", tmp_path / target)
        assert done.returncode == 1
        assert message in done.stderr
    assert list(contents(tmp_path)) == [photo]


# Full disks: files of a process that may not grow beyond a size stand for one where nothing else is


def with_files_of(size, *args, cwd):
    """Run ``mrcar`` where no file may be larger than so many bytes."""
    return subprocess.run(
        [sys.executable, "-m", "mrcar_timm.cli", *map(str, args)],
        capture_output=True, text=True, check=False, cwd=cwd,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )  # fmt: skip


@pytest.mark.slow
def test_predict_with_a_full_disk_gives_its_rows(photo, tmp_path):
    (tmp_path / "old.png").write_bytes(b"old")
    done = with_files_of(10_000, "predict", photo, "--annotate", "old.png", cwd=tmp_path)
    assert done.returncode == 1
    assert "happiness" in done.stdout
    assert "old.png: cannot be written (File too large); what was there is unchanged" in done.stderr
    assert sorted(file.name for file in contents(tmp_path)) == ["old.png", "photo.jpg"]
    assert (tmp_path / "old.png").read_bytes() == b"old"


@pytest.mark.slow
def test_video_with_a_full_disk(clip, tmp_path):
    for name in ("old.mp4", "old.csv"):
        (tmp_path / name).write_bytes(b"old")
    before = contents(tmp_path)
    done = with_files_of(1000, "video", clip, "--out", "old.mp4", cwd=tmp_path)
    assert (done.returncode, "old.mp4: cannot be written (File too large)" in done.stderr) == (1, True), done.stderr
    done = with_files_of(500, "video", clip, "--csv", "old.csv", cwd=tmp_path)
    assert (done.returncode, "old.csv: cannot be written (File too large)" in done.stderr) == (1, True), done.stderr
    assert contents(tmp_path) == before
    assert mrcar("video", clip, "--out", tmp_path / "old.mp4", "--csv", tmp_path / "old.csv").returncode == 0
    with VideoReader(tmp_path / "old.mp4") as video:
        assert len(list(video)) == 5


@pytest.mark.slow
def test_training_on_a_full_disk_goes_on_when_there_is_room(fer_folder, tmp_path):
    train = ["train", "--data", fer_folder, "--batch-size", 8, "--set", "model_args.stem_width=8",
             "--set", "model_args.widths=[16,16,16]", "--set", "model_args.embed_dim=16"]  # fmt: skip
    assert mrcar(*train, "--run", tmp_path / "whole", "--epochs", 3).returncode == 0
    assert mrcar(*train, "--run", tmp_path / "run", "--epochs", 3, "--minutes", 0).returncode == 0
    before = contents(tmp_path / "run")
    done = with_files_of(20_000, *train, "--run", tmp_path / "run", "--epochs", 3, cwd=tmp_path)
    assert done.returncode == 1
    assert "cannot be written (File too large); what was there is unchanged" in done.stderr
    assert "Traceback" not in done.stderr
    after = contents(tmp_path / "run")
    assert after.keys() == before.keys()
    assert after[tmp_path / "run/last.pt"] == before[tmp_path / "run/last.pt"]
    done = mrcar(*train, "--run", tmp_path / "run", "--epochs", 3)
    assert done.returncode == 0, done.stderr
    kept = ("epoch", "train_loss", "val_loss", "val_accuracy")
    logs = [
        [{key: row[key] for key in kept} for row in read_log(tmp_path / run / "log.csv")] for run in ("run", "whole")
    ]
    assert logs[0] == logs[1]


def test_exporting_to_a_full_disk(monkeypatch, tmp_path):
    from mrcar_timm.export import folder as export_folder

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(MRCARError, match=r"out: cannot be written \(No space left on device\)"):
        export_folder._write(tmp_path / "out", {"a": b"a"})
    assert contents(tmp_path) == {}


@pytest.mark.slow
def test_ctrl_c_and_kill_leave_the_rows_that_were_given_out(photo, tmp_path):
    (tmp_path / "in").mkdir()
    for k in range(300):
        shutil.copy(photo, tmp_path / f"in/{k:03}.jpg")
    for stop, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        out = tmp_path / "rows.jsonl"
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        with open(out, "wb") as rows:
            process = subprocess.Popen(
                [sys.executable, "-m", "mrcar_timm.cli", "predict", str(tmp_path / "in"), "--json",
                 "--annotate", str(tmp_path / "out")],
                stdout=rows, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
        signal.signal(signal.SIGINT, before)
        wait_while_running(process, lambda out=out: out.read_bytes().count(b"\n") > 8)
        process.send_signal(stop)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == code, errors
        results = [json.loads(line) for line in out.read_text().splitlines()]
        assert 8 < len(results) < 300
        assert [result["file"] for result in results] == [str(tmp_path / f"in/{k:03}.jpg") for k in range(len(results))]
        for result in results:
            with Image.open(result["annotated"]) as image:
                image.load()
        if stop == signal.SIGINT:
            assert f"stopped after {len(results)} of 300 images" in errors
            assert "Traceback" not in errors


@pytest.mark.slow
def test_a_killed_video_leaves_what_was_there(clip, tmp_path, portrait):
    long = tmp_path / "long.mp4"
    with VideoWriter(long) as writer:
        for k in range(600):
            writer.write(np.roll(np.asarray(portrait), 3 * k, 1), k / 25)
    shutil.copy(clip, tmp_path / "out.mp4")
    (tmp_path / "out.csv").write_text("before")
    process = subprocess.Popen(
        [sys.executable, "-m", "mrcar_timm.cli", "video", str(long), "--out", str(tmp_path / "out.mp4"),
         "--csv", str(tmp_path / "out.csv")],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    wait_while_running(process, lambda: any(file.stat().st_size > 5000 for file in tmp_path.glob(".mrcar-*")))
    process.kill()
    process.communicate(timeout=60)
    assert (tmp_path / "out.mp4").read_bytes() == clip.read_bytes()
    assert (tmp_path / "out.csv").read_text() == "before"


@pytest.mark.slow
def test_a_run_that_is_killed_at_its_beginning_goes_on(fer_folder, tmp_path):
    """Again and again, at other moments of the seconds in which it makes its folder and its first epoch."""
    train = ["train", "--data", str(fer_folder), "--epochs", "2", "--batch-size", "8", "--run", str(tmp_path / "run")]
    delays = np.linspace(0, 1.5, 7)
    for delay in delays:
        process = subprocess.Popen(
            [sys.executable, "-m", "mrcar_timm.cli", *train],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        while process.poll() is None and not (tmp_path / "run").exists():
            time.sleep(0.002)
        time.sleep(delay)
        process.kill()
        _, errors = process.communicate()
        assert "error" not in errors
        if delay != delays[-1]:
            shutil.rmtree(tmp_path / "run", ignore_errors=True)
    done = mrcar(*train)
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "run").glob(".mrcar-*"))
    with open(tmp_path / "run/log.csv", newline="") as log:
        assert [row["epoch"] for row in csv.DictReader(log)] == ["1", "2"]
