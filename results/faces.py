"""Measure what `mrcar bench faces` does not: faces found in hard pictures, and frames a second; into faces_more.json.

python -m results.faces
"""

import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from tests.scenes import found_and_invented, hard_scenes

from mrcar_timm import ExpressionRecognizer, FaceTracker, MTCNNDetector
from mrcar_timm.frames import VideoWriter
from mrcar_timm.provenance import provenance
from mrcar_timm.video import follow_video

HERE = Path(__file__).parent
SCENES = 15


def faces_found() -> list[dict[str, object]]:
    detectors = {"ours": MTCNNDetector(), "facenet-pytorch's driver": MTCNNDetector(exact=True)}
    rows = []
    for kind, scenes in hard_scenes(SCENES).items():
        for name, detector in detectors.items():
            counts = np.array([found_and_invented(detector(image).boxes, *truth) for image, *truth in scenes])
            found, invented = counts.sum(0).tolist()
            faces = sum(len(centres) for _, centres, _ in scenes)
            rows.append({"pictures": kind, "driver": name, "faces": faces, "found": found, "invented": invented})
    return rows


def film(file: Path, frames: int = 300) -> None:
    """A camera that moves and turns over the portrait, 640×480."""
    with Image.open(HERE.parent / "examples" / "collins.jpg") as portrait, VideoWriter(file, 30) as writer:
        for k in range(frames):
            zoom, angle = 0.55 + 0.1 * math.sin(k / 25), math.radians(8 * math.sin(k / 20))
            x, y = 256 + 60 * math.sin(k / 18), 180 + 30 * math.cos(k / 13)
            c, s = zoom * math.cos(angle), zoom * math.sin(angle)
            affine = (c, -s, x - c * 320 + s * 240, s, c, y - s * 320 - c * 240)
            frame = portrait.transform((640, 480), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
            writer.write(np.asarray(frame), k / 30)


def frames_per_second() -> list[float]:
    """Of decoding, following, recognising, drawing, encoding and the table, together; three runs."""
    recognizer = ExpressionRecognizer()
    with TemporaryDirectory() as folder:
        here = Path(folder)
        film(here / "film.mp4")
        runs = [
            follow_video(here / "film.mp4", FaceTracker(recognizer), here / "out.mp4", here / "faces.csv")
            for _ in range(3)
        ]
    assert all(set(run.faces) == {1} and run.faces[1].frames == run.frames == 300 for run in runs)
    return [round(run.frames_per_second, 1) for run in runs]


if __name__ == "__main__":
    record = {"made_by": provenance(), "found": faces_found(), "video_frames_per_second": frames_per_second()}
    (HERE / "faces_more.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
