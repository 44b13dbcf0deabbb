"""airank_fast: training benchmarks that start with one command and write logs that their rule books accept.

`python -m airank_fast` lists the commands. As a library: airank_fast.optim, airank_fast.nn,
airank_fast.models, and airank_fast.record (standard library only, no torch).
"""

__version__ = "0.1.0"
