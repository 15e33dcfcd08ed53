"""The numbers of the face path, and their place in the README.

python -m results.faces measure    # what `mrcar bench faces` does not: into faces_more.json
python -m results.faces readme     # faces.json and faces_more.json into the README
"""

import json
import math
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from tests.scenes import found_and_invented, hard_scenes

from mrcar_timm import ExpressionRecognizer, FaceTracker, MTCNNDetector
from mrcar_timm.frames import VideoWriter
from mrcar_timm.provenance import provenance
from mrcar_timm.video import follow_video

from .readme import section, write_section

HERE = Path(__file__).parent
SCENES = 15
IMAGES = {
    "group.jpg": "five faces, composed",
    "five_faces.png": "five faces, composed, textured",
    "insightface_t1.jpg": "six people, a photo",
    "collins.jpg": "one face",
}


def faces_found() -> list[dict[str, object]]:
    detectors = {"ours": MTCNNDetector(), "facenet-pytorch": MTCNNDetector(exact=True)}
    rows = []
    for kind, scenes in hard_scenes(SCENES).items():
        for name, detector in detectors.items():
            counts = np.array([found_and_invented(detector(image).boxes, *truth) for image, *truth in scenes])
            found, invented = counts.sum(0).tolist()
            faces = sum(len(centres) for _, centres, _ in scenes)
            rows.append({"images": kind, "driver": name, "faces": faces, "found": found, "invented": invented})
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
    """Of decoding, following, recognising, drawing, encoding and the table, together; five runs."""
    recognizer = ExpressionRecognizer()
    with TemporaryDirectory() as folder:
        here = Path(folder)
        film(here / "film.mp4")
        runs = [
            follow_video(here / "film.mp4", FaceTracker(recognizer), here / "out.mp4", here / "faces.csv")
            for _ in range(5)
        ]
    assert all(set(run.faces) == {1} and run.faces[1].frames == run.frames == 300 for run in runs)
    return [round(run.frames_per_second, 1) for run in runs]


def render() -> str:
    """The README's part about the face path."""
    timing = json.loads((HERE / "faces.json").read_text(encoding="utf-8"))
    more = json.loads((HERE / "faces_more.json").read_text(encoding="utf-8"))
    rows = {(row["image"], row["size"], row["search"]): row for row in timing["rows"]}
    lines = ["| image | size | facenet-pytorch | ours | ours, main face only |", "|---|---|---|---|---|"]
    for image, title in IMAGES.items():
        for size in dict.fromkeys(row["size"] for row in timing["rows"]):
            both = [rows[image, size, search] for search in ("all faces", "main face")]
            ours = " | ".join(f"{row['ours_ms']:.0f} ms (×{row['ratio']:.1f})" for row in both)
            lines.append(f"| {title} | {size} | {both[0]['facenet_ms']:.0f} ms | {ours} |")
    only = [sum(row[f"only_{who}"] for row in timing["rows"]) for who in ("facenet", "ours")]
    drivers = {}
    for row in more["found"]:
        drivers.setdefault(row["driver"], []).append(row)
    faces = sum(row["faces"] for row in drivers["ours"])
    found = {name: sum(row["found"] for row in some) for name, some in drivers.items()}
    invented = {name: sum(row["invented"] for row in some) for name, some in drivers.items()}
    speeds = more["video_frames_per_second"]
    return "\n".join(
        [
            *lines,
            "",
            f"Boxes that only one of the two finds in these images: {only[0]} of facenet-pytorch's, which are no "
            f"faces, and {only[1]} of ours. In {len(more['found']) // 2 * SCENES} harder images (faces turned by up "
            f"to 50°, blurred, dark and noisy) with {faces} faces ours finds {found['ours']} and invents "
            f"{invented['ours']}, facenet-pytorch's driver {found['facenet-pytorch']} and "
            f"{invented['facenet-pytorch']}.",
            "",
            f"A video of 640×480 with one face, read, followed, recognised, drawn and written: {min(speeds)} to "
            f"{max(speeds)} frames a second in five runs, on both cores.",
            "",
            f"Measured on: {timing['made_by']['machine']}, PyTorch {timing['made_by']['torch'].split('+')[0]}; "
            "commands and digests of the images: [results/faces.json](results/faces.json), "
            "[results/faces_more.json](results/faces_more.json).",
        ]
    )


def main(what: str) -> None:
    if what == "measure":
        record = {"made_by": provenance(), "found": faces_found(), "video_frames_per_second": frames_per_second()}
        (HERE / "faces_more.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    write_section("faces", section("faces", "faces", render()))


if __name__ == "__main__":
    main(sys.argv[1])
