"""A network as a folder: its three files, its record, and where folders are found."""
