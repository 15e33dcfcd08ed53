"""Labels and readers of data sets."""
