"""Face, eyes and mouth, aligned: the geometry of regions and the warp that cuts them."""
