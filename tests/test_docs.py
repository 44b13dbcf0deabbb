"""The documents: generated pages are up to date, links have targets, and one page alone states what has not run."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "csrc" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture
def status(monkeypatch):
    """bench/status.py, imported as the command runs it."""
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import status

    yield status
    for name in ("status", "tables"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("command", ["tables", "status", "tasks"])
def test_generated_pages_are_those_of_the_result_files(command):
    done = subprocess.run([sys.executable, ROOT / "bench" / f"{command}.py", "--check"], check=False)
    assert done.returncode == 0, f"python bench/{command}.py writes them"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_have_targets(page):
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_readme_is_read_in_two_minutes():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_what_has_not_run_on_a_gpu_is_stated_in_one_place():
    claim = re.compile(r"\b(?:not|no|never)\b[^.]{0,60}\brun on (?:a GPU|one)\b")
    code = [*(ROOT / "airank_fast").rglob("*.py"), *(ROOT / "csrc").rglob("*.*"), *(ROOT / "models").glob("*.py")]
    found = [str(path.relative_to(ROOT)) for path in [*PAGES, *code] if claim.search(path.read_text(encoding="utf-8"))]
    assert found in ([], ["docs/status.md"])


def line(bench, device="cpu: Made-up, 2 threads, AVX2", **facts):
    """A line of a result file."""
    machine, versions = {"devices": [device]}, {"python": "3.11.7", "torch": "2.13.0"}
    return {"bench": bench, "case": "all", "time": "2026-01-02T03:04:05", "commit": "abc1234", **facts} | {
        "machine": machine,
        "versions": versions,
    }


def test_status_lists_what_ran_where(status):
    runs = [
        line("convergence", case="resnet50 --amp --seed 1", status="success", time2train=30.0, target=0.97),
        line("convergence", case="resnet50 --amp --seed 2", status="aborted", time2train=None, target=0.97),
        line("suite", passed=7, failed=0, skipped=2, seconds=90.0),
    ]
    page = status.page(runs)
    assert status.NO_GPU in page
    assert "| cpu: Made-up, AVX2 | convergence, suite | 2026-01-02 | 2.13.0 |" in page
    assert "| all | 3.11.7 | 2.13.0 | cpu: Made-up, 2 threads, AVX2 | 7 | 0 | 2 | 1.5 | abc1234 |" in page
    assert "| `resnet50 --amp` | cpu: Made-up, 2 threads, AVX2 | 0.97 | 1 of 2 seeds | 30.0 s | abc1234 |" in page


def test_the_seeds_of_a_command_are_one_row(status):
    facts = {"target": 0.928, "epochs": 4}
    runs = [
        line("convergence", case="wide_deep --amp --seed 1", status="success", best_accuracy=0.9291, time2train=3.0)
        | facts,
        line("convergence", case="wide_deep --amp --seed 2", status="aborted", best_accuracy=0.91, time2train=None)
        | facts,
        line("convergence", case="deepfm --amp --seed 1", status="success", best_accuracy=0.93, time2train=9.0)
        | facts
        | {"instructions": "AVX512"},
    ]
    names, _, elsewhere, row = status.tables.convergence_rows(runs)
    assert names[4:] == [f"{name}: seeds, time2train" for name in ("AVX-512", "AVX2")]
    assert row == ["`wide_deep --amp`", "0.9280", "0.9100 to 0.9291", "4", "", "1 of 2, 3.0 s"]
    assert elsewhere == ["`deepfm --amp`", "0.9280", "0.9300", "4", "1 of 1, 9.0 s", ""]


def test_a_result_from_a_gpu_ends_the_claim_that_there_is_none(status):
    assert status.NO_GPU not in status.page([line("sgd", device="cuda: Made-up H200")])


def test_a_suite_s_result_counts_each_test_once(monkeypatch, tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "def test_a(): pass\n"
        "def test_b(): assert False\n"
        "@pytest.mark.skip\ndef test_c(): pass\n"
        "@pytest.fixture\ndef broken(): raise ValueError\n"
        "def test_d(broken): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=report.xml", "."]
    subprocess.run(command, capture_output=True, check=False, cwd=tmp_path)
    monkeypatch.syspath_prepend(ROOT / "bench")
    counted = importlib.import_module("suite").counts(tmp_path / "report.xml")
    for name in ("suite", "harness"):
        del sys.modules[name]
    assert counted == {"passed": 1, "failed": 2, "skipped": 1}
