"""Measure the inference of a trained network: MLPerf's scenarios with LoadGen, AI-Rank's and FlagPerf's own.

python -m airank_fast.infer resnet50
python -m airank_fast.infer resnet50 --checkpoint runs/resnet50-1 --scenario server --find-qps
python -m airank_fast.infer resnet50 --profile airank-2021-05 --data /data/imagenet --checkpoint resnet50.pth
"""

from __future__ import annotations

import sys

from airank_fast.cli import run_command
from airank_fast.inference import request


def main() -> int:
    """Read the command line, run the tests."""
    asked = request.parse(sys.argv[1:], program="python -m airank_fast.infer", text=__doc__ or "")
    from airank_fast.inference import session  # torch, which --help does without

    return session.run(asked)


if __name__ == "__main__":
    run_command(main)
