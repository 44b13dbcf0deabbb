"""How good a network is: one meter a file, after two kinds, `sums` of a fixed size and `records` by sample."""
