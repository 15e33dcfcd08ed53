"""In other people's hands: odd names, terminals, encodings, files and folders, and errors that are a line."""

import base64
import io
import json
import os
import pty
import re
import shutil
import socket
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from mrcar_timm import ExpressionRecognizer, ImageError, cli, images
from mrcar_timm.cli import console
from mrcar_timm.data.face_crops import find_faces
from mrcar_timm.data.landmarks import find_landmarks
from mrcar_timm.errors import DataError, DeviceError, MRCARError
from mrcar_timm.frames import VideoReader, VideoWriter
from mrcar_timm.images import UnreadableFolderWarning, find_images, to_rgb
from mrcar_timm.network import load_network
from mrcar_timm.plots import confusion_matrix
from mrcar_timm.training.engine import read_log
from mrcar_timm.user_cache import CacheWarning, user_cache
from mrcar_timm.video import VideoSummary

from .command import mrcar, mrcar_alone
from .conftest import EXAMPLES, SMALL, trainer_of

PHOTO = EXAMPLES / "collins.jpg"


@pytest.fixture
def photo(tmp_path):
    return Path(shutil.copy(PHOTO, tmp_path / "photo.jpg"))


# Text

#: Names, and how they are shown.
NAMES = {
    "[red]photo.jpg": "[red]photo.jpg",
    "me [happy] :smile: [bold].jpg": "me [happy] :smile: [bold].jpg",
    "фото 写真 é 👩‍👩‍👧.jpg": "фото 写真 é 👩‍👩‍👧.jpg",
    "two\nlines\tand\rmore.jpg": r"two\nlines\tand\rmore.jpg",
    "\x1b[31mred\x1b]0;title\x07.jpg": r"\x1b[31mred\x1b]0;title\x07.jpg",
    "\u202egpj.exe": r"\u202egpj.exe",
    "caf\udce9.jpg": r"caf\udce9.jpg",
    "IMG_20240101_120001_HDR_" + "x" * 200 + ".jpg": "IMG_20240101_120001_HDR_" + "x" * 200 + ".jpg",
}


@pytest.mark.parametrize(("name", "shown"), NAMES.items(), ids=range(len(NAMES)))
def test_names_are_shown_whole_on_a_line(tmp_path, name, shown):
    shutil.copy(PHOTO, tmp_path / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / name).touch()
    done = mrcar("predict", tmp_path / name, tmp_path / "empty" / name)
    assert done.stdout.splitlines() == [
        f"1\t180 64 266 172\thappiness\t{done.stdout.split(chr(9))[3]}\tdetector\t{tmp_path}/{shown}",
        f"\t\tcannot be used\t\t\t{tmp_path}/empty/{shown}",
    ]
    assert f"{tmp_path}/empty/{shown}: empty file" in done.stderr
    done = mrcar("predict", tmp_path / name, "--json")
    assert done.stdout.isascii()
    assert os.fsencode(json.loads(done.stdout)["file"]) == os.fsencode(tmp_path / name)


def printed_in(encoding, *args):
    """What a command prints where the streams have an encoding."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    with (
        mock.patch.object(sys, "argv", ["mrcar", *map(str, args)]),
        mock.patch.object(sys, "stdout", streams[0]),
        mock.patch.object(sys, "stderr", streams[1]),
        mock.patch.object(warnings, "formatwarning", warnings.formatwarning),
        pytest.raises(SystemExit) as stop,
    ):
        cli.main()
    texts = []
    for stream in streams:
        stream.flush()
        texts.append(stream.buffer.getvalue().decode(encoding))
    return stop.value.code, *texts


@pytest.mark.parametrize("encoding", ["cp1252", "cp932", "cp437", "ascii", "latin-1", "utf-8"])
def test_results_are_printed_in_any_encoding(tmp_path, encoding, portrait):
    for name in ("фото.jpg", "写真.jpg", "caf\udce9.jpg", "plain.jpg"):
        shutil.copy(PHOTO, tmp_path / name)
    code, out, _ = printed_in(encoding, "predict", tmp_path)
    assert code == 0
    assert out.count("happiness") == 4
    assert "plain.jpg" in out
    assert ("фото.jpg" in out) == (encoding in ("utf-8", "cp932"))
    code, _, err = printed_in(encoding, "predict", tmp_path / "ничего.jpg")
    assert code == 1
    assert "no such file" in err
    code, out, _ = printed_in(encoding, "--help")
    assert code == 0
    assert "predict" in out
    if encoding in ("cp932", "ascii"):
        with VideoWriter(tmp_path / "film.mp4") as writer:
            for k in range(3):
                writer.write(np.asarray(portrait), k / 25)
        code, out, _ = printed_in(encoding, "video", tmp_path / "film.mp4")
        assert code == 0
        assert "3 frames" in out


def test_tables_are_whole_where_nobody_looks(fer_folder, monkeypatch):
    """A pipe has no width."""
    monkeypatch.delenv("COLUMNS", raising=False)
    name = "mrcar_resnet.fer2013"
    done = mrcar("models")
    whole = (name, "non-commercial research", "test, ten crops")
    assert any(all(text in line for text in whole) for line in done.stdout.splitlines())
    run = fer_folder.parent / "a run [/x] of a long name that would not fit on a line of eighty characters"
    trainer_of(SMALL, fer_folder, run).fit()
    done = mrcar("eval", "--data", fer_folder, "--model", run, "--protocol", "one")
    assert done.returncode == 0, done.stderr
    done = mrcar("train", "--data", fer_folder, "--run", run)
    assert f"{run} holds a run with another recipe: " in done.stderr


def test_a_run_folder_in_brackets(fer_folder, tmp_path):
    run = tmp_path / "r[/x][bold]"
    small = ["--set", "model_args.stem_width=8", "--set", "model_args.widths=[16,16,16]"]
    done = mrcar("train", "--data", fer_folder, "--run", run, "--epochs", 1, "--batch-size", 8, *small)
    assert done.returncode == 0, done.stderr
    assert f"mrcar predict photo.jpg --model {run}" in done.stdout


def until_closed(terminal):
    try:
        return terminal.read(10_000)
    except OSError:  # the other end is closed
        return b""


@pytest.mark.slow
def test_rows_go_where_they_are_sent(tmp_path):
    """The bar is on a terminal, the rows are not; and the other way round."""
    for k in range(3):
        shutil.copy(PHOTO, tmp_path / f"{k}.jpg")
    command = [sys.executable, "-m", "mrcar_timm.cli", "predict", str(tmp_path)]
    env = {**os.environ, "COLUMNS": "40", "TERM": "xterm"}
    for terminal in ("stderr", "stdout"):
        ours, theirs = pty.openpty()
        with open(tmp_path / "other", "wb") as other:
            streams = {"stdout": other, "stderr": other, terminal: theirs}
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=env, **streams)
        os.close(theirs)
        with open(ours, "rb", buffering=0) as shown:
            seen = b"".join(iter(lambda shown=shown: until_closed(shown), b""))
        assert process.wait() == 0
        rows = (tmp_path / "other").read_bytes() if terminal == "stderr" else seen
        assert rows.count(b"happiness") == 3
        assert (terminal == "stderr") == (b"recognizing" in seen)
        if terminal == "stdout":  # aligned, with a header, and whole on forty columns
            header, *lines = seen.decode().splitlines()
            assert header.split()[0] == "face"
            assert {line.index("happiness") for line in lines} == {header.index("expression")}
            assert all(line.endswith(f"{k}.jpg") for k, line in enumerate(lines))


@pytest.mark.slow
def test_a_closed_pipe_ends_it_without_a_word(tmp_path):
    for k in range(40):
        shutil.copy(PHOTO, tmp_path / f"{k}.jpg")
    command = f"{sys.executable} -m mrcar_timm.cli predict {tmp_path} --json | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    first, code = done.stdout.splitlines()
    assert json.loads(first)["faces"]
    assert code == "141"
    assert done.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("locale", ["C", "POSIX", "en_US.ISO-8859-1"])
def test_locales(tmp_path, locale):
    shutil.copy(PHOTO, tmp_path / "фото.jpg")
    env = {"PATH": os.environ["PATH"], "LC_ALL": locale, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = mrcar_alone("predict", tmp_path, env=env, encoding="utf-8", errors="replace")
    assert done.returncode == 0, done.stderr
    assert "happiness" in done.stdout


def test_classes_with_dollars_are_drawn(tmp_path):
    """Two dollars would begin a formula."""
    confusion_matrix(np.eye(2), ["$\\frac$", "a$b$_{"], tmp_path / "confusion.png", "r$[/x]$^")
    with Image.open(tmp_path / "confusion.png") as image:
        assert image.width > 500
    assert list(tmp_path.iterdir()) == [tmp_path / "confusion.png"]


def test_printable():
    assert console.printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"
    assert console.printable("plain") == "plain"


# Silence

OPENED = {"jpg": None, "png": None, "avif": None, "jp2": None, "mpo": "MPO", "tga": None, "jfif": "JPEG", "jpe": "JPEG",
          "webp": None, "tif": None, "qoi": None, "pcx": None}  # fmt: skip


def test_every_image_of_a_folder_is_taken(tmp_path, portrait):
    suffixes = [suffix for suffix in OPENED if suffix != "qoi" or ".qoi" in Image.registered_extensions()]
    for suffix in suffixes:
        portrait.save(tmp_path / f"c.{suffix}", OPENED[suffix])
    portrait.save(tmp_path / "no suffix", "JPEG")
    portrait.save(tmp_path / "c.jpg_large", "PNG")
    portrait.save(tmp_path / ".hidden.jpg")
    for name in ("notes.txt", "film.mov", "empty", ".DS_Store", "._c.jpg", ".cache/faces.npz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"" if name == "empty" else b"no image")
    done = mrcar("predict", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("happiness") == len(suffixes) + 3
    names = ", ".join(str(tmp_path / name) for name in (".DS_Store", "empty", "film.mov", "notes.txt"))
    assert sorted(done.stderr.splitlines()) == [
        f"1 left out, a hidden folder: {tmp_path / '.cache'}",
        f"1 left out, kept by macOS beside another file: {tmp_path / '._c.jpg'}",
        f"4 left out, no image: {names}",
    ]


def test_heic(tmp_path, portrait, monkeypatch):
    """With pillow-heif it is read, whatever it is called; without it the error says what is missing."""
    pillow_heif.register_heif_opener()
    portrait.save(tmp_path / "a.heic", "HEIF")
    shutil.copy(tmp_path / "a.heic", tmp_path / "b.jpg")  # as some telephones name it
    done = mrcar("predict", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("happiness") == 2
    assert np.abs(to_rgb(tmp_path / "a.heic").astype(int) - np.asarray(portrait)).mean() < 6
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for formats in (Image.OPEN, Image.MIME, Image.EXTENSION):
        for name in [key for key in formats if "HEI" in key.upper() or formats[key] == "HEIF"]:
            monkeypatch.delitem(formats, name)
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])
    images._suffixes.cache_clear()
    try:
        done = mrcar("predict", tmp_path)
    finally:
        monkeypatch.undo()
        images._suffixes.cache_clear()
    assert done.returncode == 1
    for name in ("a.heic", "b.jpg"):
        assert f'{name}: HEIC, which needs pillow-heif: pip install "mrcar-timm[heic]"' in done.stderr


def test_nothing_readable_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    for args in ([tmp_path], [tmp_path / "none.jpg"], [tmp_path / "notes.txt"]):
        for json_output in ([], ["--json"]):
            assert mrcar("predict", *args, *json_output).returncode == 1
    assert "no images in" in mrcar("predict", tmp_path).stderr


def closed_to_all(folder, monkeypatch):
    """A folder without permission to look into it, for the administrator too."""
    scandir = os.scandir

    def refuse(path="."):
        if Path(os.fspath(path)) == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)


def test_folders_that_cannot_be_looked_into_are_named(photo, tmp_path, monkeypatch, recognizer):
    (tmp_path / "closed").mkdir()
    closed_to_all(tmp_path / "closed", monkeypatch)
    done = mrcar("predict", tmp_path)
    assert done.returncode == 1
    assert done.stdout.count("happiness") == 1
    assert f"{tmp_path / 'closed'}: cannot be read (Permission denied)" in done.stderr
    done = mrcar("predict", tmp_path / "closed")
    assert (done.returncode, done.stdout) == (1, "")
    with pytest.warns(UnreadableFolderWarning, match="closed: cannot be read"):
        assert len(list(recognizer.stream(tmp_path))) == 1


def test_an_unreadable_file_stops_nothing(photo, tmp_path, monkeypatch):
    shutil.copy(photo, tmp_path / "closed.jpg")
    opened = os.open

    def refuse(path, *args, **kwargs):
        if os.fspath(path) == str(tmp_path / "closed.jpg"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    done = mrcar("predict", tmp_path / "closed.jpg", photo)
    assert done.returncode == 1
    assert done.stdout.count("happiness") == 1
    assert "closed.jpg: cannot be read (Permission denied)" in done.stderr


def damaged(film, folder):
    data = bytearray(film.read_bytes())
    rng = np.random.default_rng(0)
    for place in rng.integers(2000, int(0.8 * len(data)), 60):
        data[place] ^= 0xFF
    (folder / "damaged.mp4").write_bytes(data)
    return folder / "damaged.mp4"


@pytest.fixture(scope="module")
def film(tmp_path_factory, portrait):
    film = tmp_path_factory.mktemp("film") / "film.mkv"
    for file in (film, film.with_suffix(".mp4")):
        with VideoWriter(file) as writer:
            for k in range(100):
                writer.write(np.roll(np.asarray(portrait), 2 * k, 1), k / 25)
    return film


def test_damaged_frames_are_left_out_counted_and_named(film, tmp_path):
    file = damaged(film.with_suffix(".mp4"), tmp_path)
    with VideoReader(file) as reader:
        shown = [time for _, time in reader]
        left_out = reader.left_out
    assert len(left_out) > 5
    assert not set(left_out) & set(shown)
    assert len(left_out) + len(shown) + reader.damaged >= 95
    done = mrcar("video", file)
    assert done.returncode == 1
    assert re.search(r"damaged\.mp4: \d+ frames damaged and left out, at \d\.\d", done.stderr)
    assert f"{100 - 1} frames" not in done.stdout


def test_films_that_break_off_are_named(film, tmp_path):
    cut = tmp_path / "cut.mkv"
    data = film.read_bytes()
    cut.write_bytes(data[: len(data) * 7 // 10])
    done = mrcar("video", cut)
    assert done.returncode == 1
    assert re.search(r"the file says that it lasts 4\.0 s, its last frame ends at [0-3]\.\d s", done.stderr)
    whole = mrcar("video", film)
    assert (whole.returncode, whole.stderr) == (0, "")


def test_what_is_missing_is_said_in_a_sentence():
    summary = VideoSummary(frames=7, damaged=2, left_out=[0.0, 0.5, 3.0], announced=12)
    assert summary.damages() == [
        "3 frames damaged and left out, at 0.0–0.5 s, 3.0 s",
        "2 packets could not be decoded",
        "the file says that it has 12 frames, 10 were read",
    ]
    many = VideoSummary(frames=1, left_out=[2.0 * k for k in range(9)]).damages()
    assert many == ["9 frames damaged and left out, at 0.0 s, 2.0 s, 4.0 s, 6.0 s, 8.0 s and 4 more places"]


def test_names_with_a_colon_are_files(film, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(film, "12:30:00.mkv")
    done = mrcar("video", "12:30:00.mkv", "--out", "pipe:1.mp4", "--csv", "a:b.csv")
    assert done.returncode == 0, done.stderr
    with VideoReader("pipe:1.mp4") as video:
        assert len(list(video)) == 100
    assert Path("a:b.csv").read_text().count("happiness") > 100


# What can be given


@pytest.mark.parametrize("what", [bytes, bytearray, memoryview, io.BytesIO])
def test_bytes_and_open_files_are_images(recognizer, what):
    (expected,) = recognizer(PHOTO)
    faces = recognizer(what(PHOTO.read_bytes()))
    assert faces[0].to_dict() == expected.to_dict()
    assert faces.path is None
    with open(PHOTO, "rb") as file:
        first, second = recognizer([PHOTO.read_bytes(), file])
    assert first[0].expression == second[0].expression == "happiness"


def test_a_stream_that_cannot_be_rewound(recognizer):
    read, write = os.pipe()
    with os.fdopen(read, "rb") as reader, ThreadPoolExecutor(1) as pool, os.fdopen(write, "wb") as writer:
        found = pool.submit(recognizer, reader)
        writer.write(PHOTO.read_bytes())
        writer.close()
        assert len(found.result()) == 1


ENCODED = base64.b64encode(PHOTO.read_bytes()).decode()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("https://example.org/face.jpg", r"https://example.org/face.jpg: URLs are not opened; download the file"),
        ("s3://bucket/face.jpg", "URLs are not opened"),
        (ENCODED, r"text, not a path; if it is base64, pass base64.b64decode"),
        (f"data:image/jpeg;base64,{ENCODED}", r"base64.b64decode"),
        (b"", "0 bytes: empty file"),
        (b"no image", "8 bytes: not an image"),
        (PHOTO.read_bytes()[:5000], "5000 bytes: cannot be read"),
        (io.StringIO("text"), "expected a file opened for reading bytes, got str"),
        ("zero\0byte.jpg", "cannot be read"),
        (42, "expected a path, bytes, PIL image, array or tensor, got int"),
    ],
)
def test_what_is_no_image_says_why(given, message):
    with pytest.raises(ImageError, match=message):
        to_rgb(given)


def test_a_closed_file():
    with open(PHOTO, "rb") as file:
        pass
    with pytest.raises(ImageError, match=r"collins.jpg: cannot be read \(read of closed file\)"):
        to_rgb(file)


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder", "loop", "broken"])
def test_what_is_no_file_is_said_and_never_waited_for(tmp_path, kind, photo, monkeypatch):
    odd = tmp_path / "x.jpg"
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    if kind == "pipe":
        os.mkfifo(odd)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind("x.jpg")
    elif kind == "device":
        odd.symlink_to("/dev/zero")
    elif kind == "folder":
        odd.mkdir()
    else:
        odd.symlink_to(odd if kind == "loop" else tmp_path / "nothing")
    with pytest.raises(ImageError, match=r"x\.jpg: "):
        to_rgb(odd)
    done = mrcar("predict", tmp_path)
    assert done.stdout.count("happiness") == 1
    assert done.returncode == (1 if kind in ("loop", "broken") else 0)
    assert ("x.jpg" in done.stderr) == (kind != "folder")
    if kind == "pipe":
        done = mrcar("predict", odd, photo)
        assert done.returncode == 1
        assert "x.jpg: cannot be read (neither a file nor a folder: a named pipe, socket or device)" in done.stderr
        os.mkfifo(tmp_path / "film.mp4")
        done = mrcar("video", tmp_path / "film.mp4")
        assert "film.mp4: a named pipe, socket or device, not a video file" in done.stderr


def test_pipes_in_a_data_set(tmp_path, photo):
    os.mkfifo(tmp_path / "x.jpg")
    found = find_faces(tmp_path, ["x.jpg", "photo.jpg"])
    assert found.errors == {0: "neither a file nor a folder: a named pipe, socket or device"}
    assert len(found.images) == 1


def test_links_that_lead_back_are_followed_once(tmp_path, photo):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/up").symlink_to(tmp_path)
    (tmp_path / "a/b.jpg").symlink_to(photo)
    found = find_images(tmp_path)
    assert found.files == [tmp_path / "a/b.jpg", photo]
    assert found.left_out == found.unreadable == {}


def test_files_that_vanish(tmp_path, photo, recognizer):
    shutil.copy(photo, tmp_path / "z.jpg")
    listed = find_images(tmp_path).files

    def vanishing():
        for file in listed:
            file.unlink()
            yield file

    first, second = recognizer.stream(vanishing())
    assert all("no such file" in str(error) for error in (first, second))


def test_a_limit_on_pixels(photo, tmp_path, portrait):
    portrait.save(tmp_path / "photo.png")
    small = ExpressionRecognizer(max_pixels=100_000)
    jpeg, png = small.stream([photo, tmp_path / "photo.png"])
    assert len(jpeg) == 1  # 262,144 pixels, fewer than 2.8 times as many
    assert str(png) == f"{tmp_path / 'photo.png'}: more than 100,000 pixels"
    done = mrcar("predict", tmp_path, "--max-pixels", 90_000)
    assert done.returncode == 1
    assert done.stderr.count("more than 90,000 pixels") == 2
    with pytest.raises(ImageError, match="512×512 are more than 100,000 pixels"):
        small(portrait)
    with pytest.raises(ValueError, match="max_pixels of 1 or more"):
        ExpressionRecognizer(max_pixels=0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I", "F", "CMYK"])
def test_large_images_are_reduced_in_strips(tmp_path, monkeypatch, mode):
    """What comes out is what reducing the whole would have given: means over blocks, of any mode."""
    rng = np.random.default_rng(0)
    values = np.linspace(0, 200, 120)[:, None] + rng.integers(0, 50, (1, 90))  # smooth from block to block
    grey = values.astype(np.uint8)
    if mode in ("I;16", "I", "F"):
        types = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
        whole = Image.fromarray((values * (257 if mode == "I;16" else 1)).astype(types[mode]))
        file = tmp_path / "large.tif"
    else:
        whole = Image.fromarray(grey).convert("RGBA" if mode == "LA" else "RGB").convert(mode)
        file = tmp_path / ("large.tif" if mode == "CMYK" else "large.png")
    whole.save(file)
    full = to_rgb(file).astype(float)
    monkeypatch.setattr(images, "REDUCED_PIXELS", 1500)
    monkeypatch.setattr(images, "_STRIP", 700)
    reduced, size = images.read_rgb(file)
    assert size == (90, 120)
    assert reduced.shape == (40, 30, 3)  # by three
    blocks = full.reshape(40, 3, 30, 3, 3).mean((1, 3))
    assert np.abs(reduced - blocks).max() <= (2 if mode in ("I;16", "I", "F") else 1)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["1", "RGB", "I;16"])
def test_memory_of_images_that_are_small_files(tmp_path, mode):
    """177 megapixels in a file of some kilobytes: at most six bytes a pixel beyond what there was."""
    file = tmp_path / "large.png"
    Image.new(mode, (13_300, 13_300)).save(file, compress_level=9)
    code = (
        "import resource, sys; from mrcar_timm.images import to_rgb\n"
        f"to_rgb({str(PHOTO)!r}); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"print(to_rgb({str(file)!r}).shape, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("(6650, 6650, 3)")
    assert int(done.stdout.split()[-1]) * 1024 < 6 * 13_300**2


# Settings, devices and folders


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda", "cuda:7"])
def test_devices_that_are_not_there(device, tmp_path, fer_folder):
    import torch

    if torch.cuda.is_available() and device == "cuda":
        pytest.skip("it is there")
    for args in (["predict", PHOTO], ["train", "--data", fer_folder, "--run", tmp_path / "run"]):
        done = mrcar(*args, "--device", device)
        assert done.returncode == 1
        assert f"device '{device}'" in done.stderr
        assert "cpu" in done.stderr or "GPUs" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()
    with pytest.raises(DeviceError):
        ExpressionRecognizer(device=device)
    with pytest.raises(DeviceError):
        load_network(device=device)


def test_settings_that_cannot_be_are_named(tmp_path, fer_folder):
    done = mrcar("train", "--data", fer_folder, "--run", tmp_path / "run", "--attn", "foo")
    assert done.returncode == 1
    assert "no network mrcar_resnet with {'attn_layer': 'foo'}: Invalid attn module (foo)" in done.stderr
    trainer_of(SMALL, fer_folder, tmp_path / "run").fit()
    other = SMALL.changed({"lr": 0.01, "model_args": {"attn_layer": "se"}, "augmentation": {"degrees": 3}})
    with pytest.raises(MRCARError) as caught:
        trainer_of(other, fer_folder, tmp_path / "run").fit()
    said = str(caught.value)
    assert "lr is 0.02 there, 0.01 here" in said
    assert "augmentation.degrees is 12.0 there, 3.0 here" in said
    assert "model_args.attn_layer is not set there, se here" in said
    assert "seed" not in said


def test_files_of_a_run_that_are_damaged(tmp_path, fer_folder):
    run = tmp_path / "run"
    trainer_of(SMALL, fer_folder, run).fit()
    for content in ("", "garbage", "epoch,lr\n", "epoch,train_loss,seconds\nx,y,z\n", "a\0b"):
        (run / "log.csv").write_text(content)
        with pytest.raises(DataError, match="log.csv is no log of a training"):
            read_log(run / "log.csv")
        done = mrcar("report", run, "--out", tmp_path / "report")
        assert done.returncode == 1
        assert "log.csv is no log of a training" in done.stderr
        assert "Traceback" not in done.stderr
    for content, what in (("", "it is empty"), ("[]", "it holds no object"), ("{", "Expecting property name")):
        (run / "config.json").write_text(content)
        done = mrcar("predict", PHOTO, "--model", run)
        assert done.returncode == 1
        assert f"config.json is damaged: {what}" in done.stderr


def test_caches_that_cannot_be_written(fer_folder, tmp_path, monkeypatch, portrait):
    """Work goes on, and is told once that it will be done again."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/cache")
    (tmp_path / "own").mkdir()
    portrait.save(tmp_path / "own/a.jpg")
    with monkeypatch.context() as read_only:
        read_only.setattr(os, "access", lambda *_: False)
        with pytest.warns(CacheWarning, match=r"faces cannot be kept in .*null.* \(Not a directory\); set XDG_CACHE"):
            found = find_faces(tmp_path / "own", ["a.jpg"])
    assert found.images.shape == (1, 128, 128, 3)
    faces = np.asarray(portrait.crop((160, 40, 290, 170)).convert("L").resize((48, 48)))[None]
    with pytest.warns(CacheWarning, match="landmarks cannot be kept in"):
        landmarks = find_landmarks(faces)
    assert landmarks.sources.tolist() == ["onet"]
    monkeypatch.setattr("mrcar_timm.data.check.cache_beside", lambda path: None)
    done = mrcar("data", "check", fer_folder)
    assert done.returncode == 0
    assert "without a detectable face" in done.stdout


def test_no_home(monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # a user whom the system does not know
    assert user_cache().is_absolute()
