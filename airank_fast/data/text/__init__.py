"""Text for training: readers of shards and of what every Python carries, and batches of tokens."""
