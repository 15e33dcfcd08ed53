"""Detect faces and their landmarks: MTCNN in a driver of its own, and where faces are in an image."""
