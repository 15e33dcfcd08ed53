"""Recipes, augmentation, the training loop and evaluation."""
