"""Face, eyes and mouth, aligned: landmarks, the geometry that cuts regions, and the detector."""
