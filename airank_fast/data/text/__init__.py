"""Text for training: readers of HDF5 shards and of Python's own documentation, and batches of tokens."""
