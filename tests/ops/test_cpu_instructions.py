"""The CPU kernels for each instruction set of this processor below its best: they must pass the ops' own tests."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import airank_fast.ops  # noqa: F401  (loads the kernels)

_C = pytest.importorskip("airank_fast._C", reason="the extension is not built", exc_type=ImportError)
# torch's names of these, as the ops are compared with torch.
SETS = {"baseline": "default", "AVX2": "avx2", "AVX-512": "avx512", "AVX-512 BF16": "avx512"}
OLDER = list(SETS)[: list(SETS).index(_C.build_info()["cpu_instructions"])]
# Tests that do not depend on the loops run once.
LEFT_OUT = "opcheck or gradcheck or derivatives or compile or wrong or captured or stream or instructions"


@pytest.mark.parametrize("name", OLDER)
def test_kernels_for_older_processors(name):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        str(Path(__file__).parent),
        "-m",
        "not gpu",
        "-k",
        f"not ({LEFT_OUT})",
        "--cpu-instructions",
        name,
    ]
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": SETS[name]}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 100


def test_unknown_instructions_are_refused():
    with pytest.raises(ValueError, match="AVX-512 or AVX-512 BF16 is required, got 'SSE9'"):
        _C.limit_cpu_instructions("SSE9")
