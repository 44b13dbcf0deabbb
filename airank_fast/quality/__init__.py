"""Meters of a network's quality, one metric a file, of two kinds: `sums` of a fixed size and `records` by sample."""
