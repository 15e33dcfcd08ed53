"""Faces followed through real video files, written and read back."""

import csv
import os
import signal
import struct
import subprocess
import sys
import wave

import numpy as np
import pytest
from PIL import Image, ImageFilter

from mrcar_timm import Detections, ExpressionRecognizer, FaceTracker, MTCNNDetector, VideoError, frames
from mrcar_timm.frames import VideoReader, VideoWriter
from mrcar_timm.regions.cut import cut_regions
from mrcar_timm.tracking import looks_of
from mrcar_timm.video import follow_video

from .command import mrcar
from .conftest import EXAMPLES, wait_while_running
from .scenes import heads, texture, turn

SIZE = (320, 240)


def scene(*faces, size=SIZE):
    """Heads (number, x, y of the face's centre, height of the face) on a background that stays."""
    canvas = texture(size, np.random.default_rng(0))
    for number, x, y, height in faces:
        head = heads()[number]
        turned, centre = turn(head, height / head.height, 0)
        corner = tuple(np.round((x, y) - centre).astype(int).tolist())
        canvas.paste(turned, corner, turned.getchannel("A"))
    return np.asarray(canvas)


def crossing(k):
    """Two faces, of which the second comes later, moving apart and growing."""
    first = (0, 90 + k, 110 + 10 * np.sin(k / 5), 70 + k / 2)
    second = (1, 240, 120, 80)
    return scene(first, second) if k >= 12 else scene(first)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    file = tmp_path_factory.mktemp("video") / "clip.mp4"
    with VideoWriter(file, 25) as writer:
        for k in range(40):
            writer.write(crossing(k), k / 25)
    return file


class Counting(MTCNNDetector):
    searches = 0

    def __call__(self, images):
        self.searches += 1
        return super().__call__(images)


@pytest.fixture
def counting(recognizer):
    return ExpressionRecognizer(recognizer.network.model, detector=Counting(min_face_size=40))


def test_faces_keep_their_numbers(counting):
    tracker = FaceTracker(counting, every=10)
    seen = [tracker(crossing(k), k / 25) for k in range(40)]
    assert all([face.number for face in faces] == [1] for faces in seen[:12])
    assert all([face.number for face in faces] == [1, 2] for faces in seen[20:])
    assert counting.detector.searches == 4
    for k, faces in enumerate(seen):
        x1, y1, x2, y2 = faces[0].box
        truth = (90 + k, 110 + 10 * np.sin(k / 5))
        assert np.hypot((x1 + x2) / 2 - truth[0], (y1 + y2) / 2 - truth[1]) < 8
        assert y2 - y1 == pytest.approx(70 + k / 2, rel=0.2)


def test_a_lost_face_is_sought_at_once(counting):
    tracker = FaceTracker(counting, every=100)
    assert len(tracker(scene((0, 80, 110, 80)), 0.0)) == 1
    assert len(tracker(scene((0, 240, 110, 80)), 0.1)) == 1
    assert counting.detector.searches == 2
    assert tracker(scene(), 0.2) == []
    assert counting.detector.searches == 3


def test_a_lost_face_keeps_its_number_for_a_while(counting):
    tracker = FaceTracker(counting, every=1, memory=1.0)
    one, none = scene((0, 100, 110, 80)), scene()
    numbers = [[face.number for face in tracker(one if k in (0, 5, 20) else none, k / 10)] for k in range(21)]
    assert (numbers[0], numbers[5], numbers[20]) == ([1], [1], [2])
    assert not any(numbers[1:5] + numbers[6:20])


@pytest.mark.parametrize("every", [1, 10])
def test_a_cut_to_another_person(counting, every):
    """A new number and an expression of its own, from the first frame on; and back again, the number of before."""
    tracker = FaceTracker(counting, every=every)
    shots = [0] * 8 + [1] * 8 + [0] * 4
    seen = [tracker(scene((who, 150, 120, 90)), k / 25)[0] for k, who in enumerate(shots)]
    assert [face.number for face in seen] == [1] * 8 + [2] * 8 + [1] * 4
    alone = FaceTracker(counting, smoothing=0)(scene((1, 150, 120, 90)), 0.0)[0]
    for face in seen[8:16]:
        assert face.expression == alone.expression
        assert face.probabilities == pytest.approx(alone.probabilities, abs=0.05)


def test_the_same_person_in_other_light_and_sharpness(counting):
    tracker = FaceTracker(counting, every=10)
    rng = np.random.default_rng(0)
    for k in range(30):
        frame = Image.fromarray(scene((k // 30, 150 + k, 120, 80 + k)))
        frame = np.asarray(frame.filter(ImageFilter.GaussianBlur(k % 3)))
        frame = frame * (1 - 0.6 * (k > 10)) + rng.normal(0, 6, frame.shape)
        faces = tracker(frame.clip(0, 255).astype(np.uint8), k / 25)
        assert [face.number for face in faces] == [1], k


def test_looks_by_hand():
    """The product of two looks is their correlation over 11×11 means of the face, in three colors."""
    images = [scene((k, 150, 120, 90)) for k in (0, 1)]
    detector = MTCNNDetector(min_face_size=40)
    points = [detector(image).landmarks for image in images]
    first, second = (looks_of(image, where)[0] for image, where in zip(images, points, strict=True))
    faces = [
        cut_regions(image, where, ("face",), (22, 22))[0, 0].reshape(3, 11, 2, 11, 2).mean((2, 4)).flatten()
        for image, where in zip(images, points, strict=True)
    ]
    assert first @ second == pytest.approx(np.corrcoef(*faces)[0, 1], abs=1e-5)
    assert first @ second < 0.8
    dim = looks_of((images[0] * 0.5).astype(np.uint8), points[0])[0]
    assert first @ dim > 0.99
    assert looks_of(images[0], points[0][:0]).shape == (0, 363)


def test_probabilities_are_smoothed_over_time(counting):
    """Against the sum by hand: logarithms, weighted by exp(-age / 0.5 s)."""
    sharp = scene((1, 150, 120, 90))
    soft = np.asarray(Image.fromarray(sharp).filter(ImageFilter.GaussianBlur(2.5)))
    shown = [sharp, soft, sharp, soft]
    alone = [FaceTracker(counting, every=1, smoothing=0)(frame, 0.0)[0].probabilities for frame in shown]
    tracker = FaceTracker(counting, every=1, smoothing=0.5)
    smooth = [tracker(frame, 0.2 * k)[0].probabilities for k, frame in enumerate(shown)]
    kept = np.exp(-0.2 / 0.5)
    expected = np.log(list(alone[0].values()))
    for k in range(4):
        if k:
            expected = kept * expected + (1 - kept) * np.log(list(alone[k].values()))
        by_hand = np.exp(expected) / np.exp(expected).sum()
        np.testing.assert_allclose(list(smooth[k].values()), by_hand, atol=2e-3)
    assert smooth[0] == pytest.approx(alone[0])
    assert max(abs(smooth[1][n] - alone[1][n]) for n in alone[1]) > 0.05


def test_a_detector_of_the_users_is_asked_in_every_frame(recognizer):
    calls = []

    def detector(image):
        calls.append(image.shape)
        return MTCNNDetector(min_face_size=40)(image)

    tracker = FaceTracker(ExpressionRecognizer(recognizer.network.model, detector=detector))
    for k in range(3):
        (face,) = tracker(scene((0, 100 + 3 * k, 110, 80)), k / 25)
        assert face.number == 1
    assert len(calls) == 3
    nobody = FaceTracker(ExpressionRecognizer(recognizer.network.model, detector=lambda image: Detections.none()))
    assert nobody(scene(), 0.0) == []


def test_wrong_settings(recognizer):
    with pytest.raises(ValueError, match="every"):
        FaceTracker(recognizer, every=0)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_written_and_read_back(tmp_path, suffix):
    """Odd sides, a rate that is no whole number, times that jump."""
    file = tmp_path / "new" / f"a{suffix}"
    times = [0, 1 / 23.976, 0.5, 0.6]
    colors = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (90, 90, 90)]
    with VideoWriter(file, 23.976) as writer:
        for time_, color in zip(times, colors, strict=True):
            writer.write(np.full((51, 63, 3), color, np.uint8), time_)
    with VideoReader(file) as reader:
        back = list(reader)
    assert [image.shape for image, _ in back] == [(52, 64, 3)] * 4
    np.testing.assert_allclose([t for _, t in back], times, atol=2e-3)
    for (image, _), color in zip(back, colors, strict=True):
        assert np.abs(image.mean((0, 1)) - color).max() < 6


def test_a_video_that_is_stored_turned(tmp_path):
    """As phones store them: a red corner that a player shows top right is stored top left."""
    stored = np.zeros((64, 96, 3), np.uint8)
    stored[:32, :48] = (255, 0, 0)
    file = tmp_path / "phone.mp4"
    with VideoWriter(file) as writer:
        writer.write(stored, 0.0)
    data = bytearray(file.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    assert struct.unpack(">i", data[matrix : matrix + 4]) == (65536,)
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    file.write_bytes(data)
    with VideoReader(file) as reader:
        ((shown, _),) = reader
    assert shown.shape == (96, 64, 3)
    assert (shown[5:43, 37:59] > (200, -1, -1)).all()
    assert (shown[:, :27] < 60).all()


def test_damaged_videos(tmp_path, clip):
    """Whatever the damage: frames, a count of what is missing, or an error that names the file."""
    data = clip.read_bytes()
    rng = np.random.default_rng(0)
    errors, decoded = [], 0
    for k in range(60):
        damaged = bytearray(data)
        if k % 3 == 0:
            damaged = damaged[: rng.integers(len(data))]
        else:
            for place in rng.integers(0, len(data), 1 + k):
                damaged[place] ^= 1 << int(rng.integers(8))
        file = tmp_path / "damaged.mp4"
        file.write_bytes(damaged)
        try:
            with VideoReader(file) as reader:
                decoded += sum(image.ndim == 3 for image, _ in reader)
        except VideoError as error:
            errors.append(str(error))
    assert all("damaged.mp4: " in error for error in errors)
    assert len(errors) > 10
    assert decoded > 500


def test_command(tmp_path, clip):
    out, table = tmp_path / "out.mp4", tmp_path / "faces.csv"
    done = mrcar("video", clip, "--out", out, "--csv", table, "--every", 5)
    assert done.returncode == 0, done.stderr
    assert "40 frames" in done.stdout
    assert "frames a second" in done.stdout
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["face"] for row in rows} == {"1", "2"}
    first = [row for row in rows if row["face"] == "1"]
    assert [int(row["frame"]) for row in first] == list(range(40))
    assert float(first[25]["time"]) == pytest.approx(1.0, abs=0.01)
    for row in rows:
        probabilities = [float(row[name]) for name in list(row)[11:]]
        assert sum(probabilities) == pytest.approx(1, abs=1e-3)
        assert float(row["probability"]) == max(probabilities) == float(row[row["expression"]])
    with VideoReader(clip) as before, VideoReader(out) as after:
        pairs = list(zip(before, after, strict=True))
    for (plain, time_), (drawn, drawn_time) in pairs:
        assert time_ == pytest.approx(drawn_time, abs=2e-3)
        assert ((np.abs(plain.astype(int) - drawn).max(2) > 60).mean()) > 0.005


def test_expressions_that_are_not_asked_for(tmp_path, clip):
    table = tmp_path / "faces.csv"
    assert mrcar("video", clip, "--csv", table, "--without", "contempt", "--largest").returncode == 0
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert "contempt" not in rows[0]
    assert all(sum(float(row[name]) for name in list(row)[11:]) == pytest.approx(1, abs=1e-3) for row in rows)


@pytest.mark.slow
def test_ctrl_c_leaves_whole_files(tmp_path):
    """A long video, stopped long before its end: what is written reaches the file in large pieces."""
    long, out, table = tmp_path / "long.mp4", tmp_path / "out.mp4", tmp_path / "faces.csv"
    frames = [crossing(k) for k in range(40)]
    with VideoWriter(long) as writer:
        for k in range(1800):
            writer.write(frames[k % 40], k / 25)
    command = [sys.executable, "-m", "mrcar_timm.cli", "video", str(long), "--out", str(out), "--csv", str(table)]
    # Tests in the background of a shell ignore Ctrl-C, and would hand that on.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    signal.signal(signal.SIGINT, before)
    wait_while_running(process, lambda: any(file.stat().st_size > 20_000 for file in tmp_path.glob(".mrcar-*")))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "stopped" in errors
    with VideoReader(out) as reader:
        count = len(list(reader))
    assert 10 < count < 1800
    with open(table, newline="") as file:
        assert int(list(csv.DictReader(file))[-1]["frame"]) in (count - 1, count)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nothing.mp4"], "nothing.mp4: cannot be opened"),
        ([EXAMPLES / "README.md"], "cannot be opened"),
        ([], "a video file or --camera"),
        (["--camera", 7], "camera 7: cannot be opened"),
        ([EXAMPLES / "collins.jpg", "--out", "x.txt"], "ends in .mp4"),
    ],
)
def test_errors_are_one_line(args, message):
    done = mrcar("video", *args)
    assert done.returncode == 1
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_video_is_not_overwritten_by_itself(clip):
    before = clip.read_bytes()
    assert "the video itself" in mrcar("video", clip, "--out", clip).stderr
    assert clip.read_bytes() == before


def test_a_full_disk(tmp_path):
    (tmp_path / "full.mp4").symlink_to("/dev/full")
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)

    def write():
        with VideoWriter(tmp_path / "full.mp4") as writer:
            for k in range(60):
                writer.write(np.roll(noise, k), k / 25)

    with pytest.raises(VideoError, match=r"full\.mp4: cannot be written \(No space left on device\)"):
        write()


def test_camera(monkeypatch, recognizer):
    """A device that FFmpeg simulates, whose clock has run for a while."""
    device = "testsrc=size=320x240:rate=25:duration=1,setpts=PTS+1000/TB"
    monkeypatch.setitem(frames._CAMERAS, sys.platform, ("lavfi", device))
    with VideoReader(3) as reader:
        assert reader.name == "camera 3"
        assert reader.count is reader.announced is None
        seen = list(reader)
    np.testing.assert_allclose([t for _, t in seen], np.arange(25) / 25, atol=1e-3)
    assert seen[0][0].shape == (240, 320, 3)
    summary = follow_video(3, FaceTracker(recognizer))
    assert (summary.frames, summary.faces) == (25, {})


def test_sound_alone_is_no_video(tmp_path):
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16_000))
    with pytest.raises(VideoError, match="no video stream"):
        VideoReader(tmp_path / "tone.wav")


def test_without_pyav(tmp_path):
    code = "import sys; sys.modules['av'] = None\nfrom mrcar_timm.frames import VideoReader\nVideoReader('a.mp4')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=os.environ)
    assert 'pip install "mrcar-timm[video]"' in done.stderr


def test_a_photo_is_a_video_of_one_frame():
    with VideoReader(EXAMPLES / "collins.jpg") as reader, Image.open(EXAMPLES / "collins.jpg") as photo:
        ((image, _),) = reader
        assert np.abs(image.astype(int) - np.asarray(photo.convert("RGB"))).mean() < 4
