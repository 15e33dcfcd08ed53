"""Bulk scoring: many images in, tables of their faces out."""
