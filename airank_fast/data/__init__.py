"""Readers of data sets by kind: `images`, `text`, `tables`. Here: the order of samples, prefetching, manifests."""
