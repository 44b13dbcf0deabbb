"""Networks, one a file, imported as ``airank_fast.models``."""
