"""`python -m airank_fast` and `python -m airank_fast.info`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from airank_fast import cli, info
from airank_fast.engine import system
from airank_fast.errors import UserError

PACKAGE = Path(info.__file__).parent
WITHOUT_EXTENSION = """
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "airank_fast._C" else find_spec(name, *rest)
"""


def python(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], cwd=PACKAGE.parent, capture_output=True, text=True, check=False)


def test_the_list_names_every_command_and_nothing_else():
    done = python("-m", "airank_fast")
    assert done.returncode == 0
    listed = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith("  ")}
    runnable = {path.stem for path in PACKAGE.glob("*.py") if '__name__ == "__main__"' in path.read_text()}
    assert set(listed) == runnable - {"__main__"} >= {"info", "train"}
    assert "Prints the loaded kernels" in listed["info"]


def test_json_holds_ops_devices_versions_and_what_the_extension_was_built_with():
    done = python("-m", "airank_fast.info", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["versions"]["python"].startswith("3.")
    assert facts["devices"][0].startswith("cpu: ")
    assert facts["amp"]["cpu"]["precision"] in ("bf16", "fp32")
    assert facts["amp"]["cpu"]["reason"]
    assert set(facts["ops"]["sgd_"]) == {"cpu", "cuda"}
    built = "missing" not in facts["extension"]
    assert facts["ops"]["sgd_"]["cpu"] == ("kernel" if built else "reference")
    if built:
        assert set(facts["extension"]) == {"compiler", "torch", "cuda", "cuda_architectures", "cpu_instructions"}
        assert facts["ops"]["sgd_"]["cuda"] == ("reference" if facts["extension"]["cuda"] == "none" else "kernel")


def test_without_the_extension_the_reference_runs_and_info_gives_the_reason():
    done = python("-c", WITHOUT_EXTENSION + "from airank_fast import info; print(info.as_text(info.collect()))")
    assert done.returncode == 0, done.stderr
    assert "cpu reference, cuda reference" in done.stdout
    assert "pip install --no-build-isolation ." in done.stdout


def test_a_misspelt_option_is_answered_with_the_likely_one():
    done = python("-m", "airank_fast.info", "--jsom")
    assert done.returncode == 2
    assert "--json" in done.stdout + done.stderr


def test_versions_leaves_out_what_is_not_installed():
    assert all(version and isinstance(version, str) for version in system.versions().values())
    assert "no-such-library" not in system.versions()


@pytest.mark.parametrize(
    ("main", "status", "stderr"),
    [
        (lambda: None, 0, ""),
        (lambda: 3, 3, ""),
        (
            lambda: raise_(UserError("--data: must be a directory,\n  got nothing")),
            2,
            "error: --data: must be a directory, got nothing\n",
        ),
        (lambda: raise_(KeyboardInterrupt()), 130, ""),
    ],
)
def test_run_command_turns_endings_into_exit_statuses(main, status, stderr, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.run_command(main)
    assert ended.value.code == status
    assert capsys.readouterr().err == stderr


def test_run_command_keeps_the_traceback_of_a_defect():
    with pytest.raises(ZeroDivisionError):
        cli.run_command(lambda: 1 // 0)


def raise_(error: BaseException) -> None:
    raise error
