"""The expression of one face, with onnxruntime, numpy and Pillow alone: python example.py face.jpg

The image is a crop of one face, a little wider than chin to forehead. For photos use mrcar_timm.runtime.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

here = Path(__file__).parent
image = Image.open(sys.argv[1]).convert("RGB")
network = onnxruntime.InferenceSession(here / "network.onnx")
about = {key: json.loads(value) for key, value in network.get_modelmeta().custom_metadata_map.items()}

# The O-Net finds eyes, nose and mouth corners in an image of 48×48 pixels: x of all five, then y, in 0…1.
crop = np.asarray(image.resize((48, 48)), np.float32)
_, points, score = onnxruntime.InferenceSession(here / "onet.onnx").run(None, {"crops": crop[None]})
x, y = points[0].reshape(2, 5) * np.array(image.size)[:, None]

# The similarity from the frame in which the regions are boxes to the image, by least squares over complex numbers.
template = np.array(about["template"]) @ (1, 1j)
centred = template - template.mean()
turn = (centred.conj() * (x + 1j * y)).sum() / (abs(centred) ** 2).sum()
shift = (x + 1j * y).mean() - turn * template.mean()
frame = np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag], [0, 0, 1]])

height, width = about["size"]
to_unit = np.diag([1 / width, 1 / height, 1])
matrices = [frame @ np.array(matrix) @ to_unit for matrix in about["region_matrices"].values()]
regions = [np.asarray(image.transform((width, height), Image.Transform.AFFINE, m[:2].ravel(), 2)) for m in matrices]
mean, std = (np.array(about[key])[:, None, None] for key in ("mean", "std"))
values = (np.stack(regions).transpose(0, 3, 1, 2) / 255 - mean) / std

(logits,) = network.run(None, {"regions": values[None].astype(np.float32)})
probabilities = np.exp(logits[0] - logits.max()) / np.exp(logits[0] - logits.max()).sum()
for label, probability in zip(about["labels"], probabilities, strict=True):
    print(f"{label:10} {probability:.1%}")
print(f"face: {score[0]:.1%}")
