"""A network as a folder: its three files, its record, and where folders are found."""

import timm  # noqa: F401 - first, as it registers the networks, whose modules import those of this package
