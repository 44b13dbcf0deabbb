"""Readers of data sets by kind: `images`, `text`. Here: the order of samples, prefetching, manifests."""
