"""Network definitions, one file per network, imported as ``airank_fast.models``."""
