"""Faces as tables, and films as timelines."""

import csv
import json
import sys

import numpy as np
import pandas
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from mrcar_timm import ExpressionRecognizer, MRCARError, plots
from mrcar_timm.recognizer import FACE_COLUMNS
from mrcar_timm.video import Timeline

from .command import mrcar
from .conftest import EXAMPLES
from .test_demo import film_of


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_frame_of_faces(recognizer):
    faces = recognizer(EXAMPLES / "group.jpg")
    frame = faces.to_frame()
    assert list(frame.columns) == ["file", *FACE_COLUMNS, *recognizer.labels]
    assert frame.face.tolist() == [1, 2, 3, 4, 5]
    assert frame.expression.tolist() == [face.expression for face in faces]
    np.testing.assert_allclose(frame[["x1", "y1", "x2", "y2"]], [face.box for face in faces], atol=0.05)
    np.testing.assert_allclose(frame[list(recognizer.labels)].sum(1), 1, atol=1e-3)
    assert set(frame.file) == {str(EXAMPLES / "group.jpg")}


def test_frames_of_several_images_go_together(recognizer, portrait):
    results = recognizer([EXAMPLES / "group.jpg", np.zeros((64, 64, 3), np.uint8), portrait])
    empty = results[1].to_frame()
    assert empty.empty
    assert list(empty.columns) == list(results[0].to_frame().columns)
    assert len(pandas.concat(faces.to_frame() for faces in results)) == 6


def test_without_pandas(recognizer, monkeypatch, portrait):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MRCARError, match=r'tables need pandas: pip install "mrcar-timm\[pandas\]"'):
        recognizer(portrait).to_frame()


def test_a_table_of_photos(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("group.jpg", "collins.jpg"):
        (photos / name).write_bytes((EXAMPLES / name).read_bytes())
    Image.new("RGB", (64, 64)).save(photos / "nobody.png")
    (photos / "torn.jpg").write_bytes((EXAMPLES / "collins.jpg").read_bytes()[:4000])
    done = mrcar("predict", photos, "--csv", tmp_path / "faces.csv", "--json")
    assert done.returncode == 1
    rows = read(tmp_path / "faces.csv")
    results = {result["file"]: result for result in map(json.loads, done.stdout.splitlines())}
    for file, result in results.items():
        own = [row for row in rows if row["file"] == file]
        faces = result.get("faces", [])
        assert [row["face"] for row in own] == ([str(face["number"]) for face in faces] or ["0"])
        for row, face in zip(own, faces, strict=False):
            assert row["expression"] == face["expression"]
            assert [float(row[name]) for name in ("x1", "y1", "x2", "y2")] == face["box"]
            assert {name: float(row[name]) for name in face["probabilities"]} == face["probabilities"]
        assert {row["error"] for row in own} == {result.get("error", "")}
    assert len(rows) == 5 + 1 + 1 + 1


def test_a_table_is_no_photo_and_no_annotated_one(tmp_path):
    photo = tmp_path / "photo.png"
    photo.write_bytes((EXAMPLES / "collins.jpg").read_bytes())
    done = mrcar("predict", photo, "--csv", photo)
    assert (done.returncode, "is the image itself" in done.stderr) == (1, True)
    done = mrcar("predict", photo, "--csv", tmp_path / "a.png", "--annotate", tmp_path / "a.png")
    assert (done.returncode, "same file" in done.stderr) == (1, True)


def test_ctrl_c_leaves_what_was_done(tmp_path, monkeypatch):
    stream = ExpressionRecognizer.stream

    def interrupted(self, images):
        yield next(stream(self, images))
        raise KeyboardInterrupt

    monkeypatch.setattr(ExpressionRecognizer, "stream", interrupted)
    done = mrcar("predict", EXAMPLES / "collins.jpg", EXAMPLES / "group.jpg", "--csv", tmp_path / "faces.csv")
    assert done.returncode == 130
    assert [row["file"] for row in read(tmp_path / "faces.csv")] == [str(EXAMPLES / "collins.jpg")]


def test_a_timeline_of_a_film(tmp_path):
    out = tmp_path / "timeline.png"
    film = film_of(tmp_path / "film.mp4")
    done = mrcar("video", film, "--plot", out)
    assert done.returncode == 0, done.stderr
    with Image.open(out) as image:
        assert image.format == "PNG"
        red = np.asarray(image.convert("RGB")).reshape(-1, 3)
        assert (np.abs(red - [214, 39, 40]).max(1) < 8).mean() > 0.2  # happiness fills it
    assert mrcar("video", film, "--plot", film).returncode == 1


def drawn(monkeypatch, tmp_path, series, labels=("a", "b")):
    """The areas of each row of a timeline, and its title, as they were given to Matplotlib."""
    areas, titles = {}, []

    def stackplot(self, times, values, **kwargs):
        areas.setdefault(id(self), []).append((np.array(times), np.array(values)))

    monkeypatch.setattr(Axes, "stackplot", stackplot)
    monkeypatch.setattr(Figure, "suptitle", lambda self, text: titles.append(text))
    plots.timeline(series, labels, tmp_path / "plot.png", "film")
    return list(areas.values()), titles[0]


def test_what_is_too_fine_is_averaged(monkeypatch, tmp_path):
    times = np.arange(10_000) / 25
    values = np.stack([times / 400, 1 - times / 400], 1)
    ((area,),), _ = drawn(monkeypatch, tmp_path, {1: (times, values)})
    assert area[1].shape == (2, 1000)
    np.testing.assert_allclose(area[1].sum(0), 1)
    np.testing.assert_allclose(area[1][0], area[0] / 400, atol=1e-9)


def test_a_face_that_was_away_has_a_gap(monkeypatch, tmp_path):
    times = np.concatenate([np.arange(50) / 25, 5 + np.arange(25) / 25])
    (areas,), _ = drawn(monkeypatch, tmp_path, {1: (times, np.full((75, 2), 0.5))})
    assert [(area[0][0], area[0][-1]) for area in areas] == [(0, 1.96), (5, 5.96)]


def test_of_many_faces_those_that_stayed_are_drawn(monkeypatch, tmp_path):
    series = {k: (np.arange(k) / 25, np.full((k, 2), 0.5)) for k in range(1, 21)}
    rows, title = drawn(monkeypatch, tmp_path, series)
    assert sorted(len(row[0][0]) for row in rows) == list(range(13, 21))
    assert title == "film (8 of 20 faces)"


def test_a_film_without_faces(tmp_path):
    Timeline(("a", "b")).draw(tmp_path / "plot.png")
    assert Image.open(tmp_path / "plot.png").width > 500
