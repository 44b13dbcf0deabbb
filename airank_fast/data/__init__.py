"""Data sets by kind: `images`, `text`. What they share is here: the order of samples, prefetching, manifests."""
