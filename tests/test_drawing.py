"""Annotated images: numbers and expressions can be read, and no face is covered by another's."""

import json

import numpy as np
import pytest
from PIL import Image

from mrcar_timm import FaceTracker
from mrcar_timm.drawing import LAYERS, _labels, _texts, _touches, annotate, seen_regions

from .command import mrcar
from .conftest import EXAMPLES
from .scenes import composed


@pytest.fixture(scope="module")
def crowd(portrait):
    """Four rows of faces, nearly side by side."""
    head = portrait.crop((150, 30, 300, 200)).resize((72, 82))
    canvas = Image.new("RGB", (1900, 420), (150, 140, 130))
    for k in range(88):
        canvas.paste(head, (10 + k % 22 * 84 + k // 22 % 2 * 40, 40 + k // 22 * 90))
    return np.asarray(canvas)


def places(faces, size):
    return list(_labels(_texts(faces), np.array([face.box for face in faces]), *size))


def test_labels_of_a_crowd(recognizer, crowd):
    faces = recognizer(crowd)
    assert len(faces) == 88
    labels = places(faces, crowd.shape[1::-1])
    boxes = np.array([face.box for face in faces])
    for k, ((x1, y1, x2, y2), text, size) in enumerate(labels):
        assert text.split()[0] == str(k + 1)
        assert not _touches((x1, y1, x2, y2), np.delete(boxes, k, 0))
        assert not _touches((x1, y1, x2, y2), np.array([other for other, *_ in labels[:k]]).reshape(-1, 4))
        assert 0 <= x1 < x2 <= 1900
        assert 0 <= y1 < y2 <= 420
        assert 10 <= size <= 12
    assert sum(len(text.split()) == 3 for _, text, _ in labels) > 30  # expressions, where there is room
    # And what can be seen of it.
    drawn = np.asarray(annotate(crowd, faces, with_regions=False))
    covered = []
    for face in faces:
        x1, y1, x2, y2 = map(round, face.box)
        black = (drawn[y1:y2, x1:x2].max(2) < 12) & (crowd[y1:y2, x1:x2].max(2) > 40)
        covered.append(black.mean())
    assert np.mean(covered) < 0.03
    assert max(covered) < 0.06


def test_text_follows_the_face(recognizer):
    image, *_ = composed(2, (1600, 900), 0, (300, 300))
    large = places(recognizer(image), (1600, 900))
    image, *_ = composed(20, (1600, 900), 0, (40, 40))
    small = places(recognizer(image), (1600, 900))
    assert min(size for *_, size in large) > 25
    assert max(size for *_, size in small) == 10


def test_where_there_is_no_room_the_number_stands_in_its_face():
    texts = [(f"{k + 1} surprise 100%", str(k + 1)) for k in range(4)]
    boxes = np.array([[x, y, x + 50, y + 50] for y in (0, 50) for x in (0, 50)], float)  # all of the image
    labels = list(_labels(texts, boxes, 100, 100))
    for k, ((x1, y1, x2, y2), text, _) in enumerate(labels):
        assert text == str(k + 1)
        assert boxes[k, 0] <= x1
        assert boxes[k, 1] <= y1
        assert x2 <= boxes[k, 2]
        assert y2 <= boxes[k, 3]


def test_one_face_needs_no_number(recognizer, portrait):
    assert _texts(recognizer(portrait)) == [("happiness 97%",)]
    tracked = FaceTracker(recognizer)(portrait, 0.0)
    assert _texts(tracked)[0][0].startswith("1 happiness")


def test_numbers_stand_in_the_table(tmp_path):
    done = mrcar("predict", EXAMPLES / "group.jpg", "--json", "--annotate", tmp_path / "out.png")
    result = json.loads(done.stdout)
    assert [face["number"] for face in result["faces"]] == [1, 2, 3, 4, 5]
    heights = [face["box"][3] - face["box"][1] for face in result["faces"]]
    assert heights[0] == max(heights)
    with Image.open(tmp_path / "out.png") as image:
        assert image.width == 640


def test_captions_of_several_faces(recognizer):
    with Image.open(EXAMPLES / "group.jpg") as group:
        image = np.asarray(group.convert("RGB"))
    strip = np.asarray(seen_regions(image, recognizer(image), width=528))
    assert strip.shape == (5 * (14 + 88 + 6), 528, 3)
    assert (strip[:14].min(2) < 100).any()
    assert (strip[:14].min(2) < 100).mean() < 0.2


def test_a_reduced_image_is_drawn_on_in_its_own_size(recognizer, portrait):
    """Faces of a file of 50 megapixels are in its pixels, also where the image that is drawn on is smaller."""
    faces = recognizer(portrait)
    half = np.asarray(portrait.resize((256, 256)))
    drawn = np.asarray(annotate(half, faces, with_regions=False)).astype(int)
    x1, y1, _, y2 = (round(v / 2) for v in faces[0].box)
    assert (drawn[y1 + 20 : y2 - 2, x1] > 240).all()
    assert (drawn[y2 + 20 :] == half[y2 + 20 :]).all()


def test_layers_are_drawn_alone(recognizer, portrait):
    pixels, faces = np.asarray(portrait), recognizer(portrait)

    def changed(*layers, **kwargs):
        drawn = annotate(pixels, faces, with_regions=False, layers=layers, **kwargs)
        return (np.asarray(drawn) != pixels).any(2)

    assert not changed().any()
    alone = {layer: changed(layer) for layer in LAYERS}
    assert all(mask.any() for mask in alone.values())
    together = changed(*LAYERS)
    assert (together <= np.logical_or.reduce(list(alone.values()))).all()
    x1, y1, x2, y2 = map(round, faces[0].box)
    box = alone["boxes"]
    assert box[y1 : y1 + 1, x1:x2].mean() > 0.9
    assert not box[y1 + 8 : y2 - 8, x1 + 8 : x2 - 8].any()
    assert changed("boxes", chosen=0).sum() > 1.5 * box.sum()
    assert (changed("boxes", chosen=3) == box).all()
