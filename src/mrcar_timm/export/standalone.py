"""The expression of one face, with onnxruntime, numpy and Pillow alone: python example.py face.jpg

The image is a crop of one face, a little wider than from chin to forehead. For photos use mrcar_timm.runtime.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # newer builds report their use to their maker
import onnxruntime


def main(folder: Path, image: Image.Image) -> None:
    network = onnxruntime.InferenceSession(folder / "network.onnx")
    about = {key: json.loads(value) for key, value in network.get_modelmeta().custom_metadata_map.items()}

    # The O-Net finds eyes, nose and mouth corners in an image of 48×48 pixels: x of all five, then y, in 0…1.
    crop = np.asarray(image.resize((48, 48)), np.float32)
    _, points, score = onnxruntime.InferenceSession(folder / "onet.onnx").run(None, {"crops": crop[None]})
    x, y = points[0].reshape(2, 5) * np.array(image.size)[:, None]

    # The similarity from the frame in which the regions lie to the image, by least squares over complex numbers.
    place, template = x + 1j * y, np.array(about["template"]) @ (1, 1j)
    centred = template - template.mean()
    turn = (centred.conj() * place).sum() / (abs(centred) ** 2).sum()
    shift = place.mean() - turn * template.mean()
    frame = np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag], [0, 0, 1]])

    regions, (height, width) = [], about["size"]
    for matrix in about["region_matrices"].values():
        affine = (frame @ np.array(matrix) @ np.diag([1 / width, 1 / height, 1]))[:2].ravel()
        regions.append(np.asarray(image.transform((width, height), Image.Transform.AFFINE, affine, 2)))
    values = (np.stack(regions) / 255 - np.array(about["mean"])) / np.array(about["std"])  # (R, h, w, 3)

    (logits,) = network.run(None, {"regions": values.transpose(0, 3, 1, 2)[None].astype(np.float32)})
    for label, probability in zip(about["labels"], np.exp(logits[0]) / np.exp(logits[0]).sum(), strict=True):
        print(f"{label:10} {probability:.1%}")
    print(f"face: {score[0]:.1%}")


if __name__ == "__main__":
    main(Path(__file__).parent, Image.open(sys.argv[1]).convert("RGB"))
