"""Compose group.jpg from the one portrait in this folder: five faces of several sizes and angles.

python examples/make_group.py out.jpg
"""

import sys
from pathlib import Path

from PIL import Image, ImageOps

HEAD = (150, 5, 305, 185)  # x1, y1, x2, y2 in the portrait
# x, y of the head's centre, scale, degrees, mirrored
PLACES = [
    (130, 170, 1.3, 0, False),
    (340, 150, 1.0, 12, True),
    (520, 180, 1.15, -15, False),
    (240, 350, 0.6, 0, True),
    (430, 350, 0.5, 8, False),
]


def compose(portrait: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", (640, 440), (168, 158, 150))
    head = portrait.crop(HEAD)
    for x, y, scale, degrees, mirrored in PLACES:
        piece = ImageOps.mirror(head) if mirrored else head
        piece = piece.resize((round(piece.width * scale), round(piece.height * scale)), Image.Resampling.LANCZOS)
        mask = Image.new("L", piece.size, 255).rotate(degrees, Image.Resampling.BICUBIC, expand=True)
        piece = piece.rotate(degrees, Image.Resampling.BICUBIC, expand=True)
        canvas.paste(piece, (x - piece.width // 2, y - piece.height // 2), mask)
    return canvas


if __name__ == "__main__":
    folder = Path(__file__).parent
    target = sys.argv[1] if len(sys.argv) > 1 else folder / "group.jpg"
    with Image.open(folder / "collins.jpg") as portrait:
        compose(portrait.convert("RGB")).save(target, quality=92)
