"""The inference runs of a submission, and the parts that its trees share: refusals, code, texts and manifest."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from airank_fast import tasks
from airank_fast.errors import UserError
from airank_fast.record.events import dictionary
from airank_fast.record.foreign.read import Run
from airank_fast.record.inference_metrics import ACCURACY, PERFORMANCE, InferenceTally, LoadTest, headline_value
from airank_fast.record.inference_reading import is_inference, read_inference
from airank_fast.rules import verifying
from airank_fast.rules.findings import ERROR, Finding, Rule
from airank_fast.submission import texts
from airank_fast.submission.candidates import REHEARSAL, Candidate, source_errors
from airank_fast.submission.privacy import shorten, shorten_all
from airank_fast.submission.request import Request, add_source, manifest_of
from airank_fast.submission.tree import Tree

VALID = Rule(
    name="package.inference.valid",
    severity=ERROR,
    source="MLPerf inference rules and AI-Rank: a result is of a valid test whose accuracy is met",
)
_SETTINGS = ("benchmark", "profile", "backend", "precision", "device", "devices", "threads", "max_batch", "duration_s")


@dataclass(frozen=True)
class InferenceCandidate(Candidate):
    """An inference run; `log` is its event log."""

    tally: InferenceTally

    @property
    def config(self) -> dict:
        return self.tally.config

    @property
    def is_rehearsal(self) -> bool:
        stated = str(dictionary(self.config.get("submission")).get("org"))
        return bool(self.config.get("is_rehearsal")) or REHEARSAL in stated

    @property
    def profile(self) -> str:
        """The rules that the run followed: v6.1, airank-2021-05 ..."""
        return str(self.config.get("profile"))

    @property
    def is_own(self) -> bool:
        """Whether the weights were trained here, and are not those that a benchmark publishes."""
        return dictionary(self.config.get("checkpoint")).get("trained_here") is not False

    @property
    def task(self) -> tasks.Task | None:
        """The benchmark's task."""
        return tasks.of(self.config)

    @property
    def engine(self) -> dict:
        """What the engine says of itself."""
        return dictionary(self.tally.model.get("engine"))

    @property
    def framework(self) -> str:
        """The engine's name and version."""
        names = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime"}
        name = str(self.engine.get("name") or self.config.get("backend") or "unknown")
        return f"{names.get(name, name)} {self.engine.get('version') or ''}".strip()

    def test(self, scenario: str, mode: str = PERFORMANCE) -> LoadTest | None:
        """The last test of a scenario in a mode that ended; of performance the one that counts."""
        if mode == PERFORMANCE:
            return self.tally.performance(scenario)
        ended = [test for test in self.tally.tests if test.stop and (test.scenario, test.mode) == (scenario, mode)]
        return ended[-1] if ended else None


def read_candidate(path: Path) -> InferenceCandidate:
    """The inference run in the directory `path`. UserError if there is none, or one without a benchmark."""
    source = path / "events.jsonl" if path.is_dir() else path
    if source.is_symlink() or not is_inference(path):
        raise UserError(f"{path}: must be a directory of airank_fast.infer with events.jsonl, got none")
    found = read_inference(path)
    tally = found.tally
    benchmark = tally.config.get("benchmark")
    if not isinstance(benchmark, str) or not benchmark:
        raise UserError(f"{path}: must be a run that states its benchmark, got none")
    run = Run(source.parent, source, "events", [tally.system] if tally.system else [], found.summary)
    return InferenceCandidate(run, source, benchmark, 1, tally)


def refusals(candidates: list[InferenceCandidate]) -> list[Finding]:
    """The findings that exclude runs: errors of verify, tests that do not count, and source code that cannot be had."""
    errors = []
    for one in candidates:
        errors += [finding for finding in verifying.verify(one.run.path) if finding.severity == ERROR]
        errors += list(_invalid(one))
    return errors + source_errors(candidates)


def _invalid(one: InferenceCandidate) -> Iterable[Finding]:
    for scenario, event in one.tally.accuracies.items():
        if event.get("passed") is not True:
            found = f"{scenario}: the accuracy is below the bound"
            yield VALID.broken(str(one.log), None, found, "an accuracy that is met is required")
    for scenario in one.tally.scenarios():
        stop = dictionary(one.test(scenario).stop)
        if stop.get("valid") is not True:
            reasons = "; ".join(map(str, stop.get("reasons") or ["no reason stated"]))[:300]
            yield VALID.broken(str(one.log), None, f"{scenario} is not valid: {reasons}", "a valid test is required")
    if not one.tally.scenarios():
        yield VALID.broken(str(one.log), None, "no performance test that ended", "one is required")


def placed(candidates: list[InferenceCandidate], names: Iterable[str]) -> dict[str, dict[str, InferenceCandidate]]:
    """{benchmark: {scenario: its run}} of the scenarios `names`; UserError for one that two runs have."""
    found: dict[str, dict[str, InferenceCandidate]] = {}
    for one in candidates:
        for scenario in one.tally.scenarios():
            if scenario not in names:
                continue
            scenarios = found.setdefault(one.benchmark, {})
            if scenario in scenarios:
                raise UserError(
                    f"{one.log}: must be the only run of {one.benchmark} with scenario {scenario}, got a second beside "
                    f"{scenarios[scenario].log}"
                )
            scenarios[scenario] = one
    return dict(sorted(found.items()))


def one_profile(candidates: list[InferenceCandidate], form: str, profiles: Iterable[str]) -> str:
    """The profile that all runs share, one of `profiles`; UserError for another, or several."""
    profiles, stated = list(profiles), dict.fromkeys(one.profile for one in candidates)
    if len(stated) != 1 or not set(stated) <= set(profiles):
        raise UserError(
            f"--format {form}: must have runs of one profile of {', '.join(profiles)}, got {', '.join(stated)}"
        )
    return next(iter(stated))


def system_of(request: Request) -> tuple[dict, dict]:
    """`Request.facts` with the engine as the framework."""
    run, here = request.facts()
    engines = dict.fromkeys(one.framework for one in request.candidates if isinstance(one, InferenceCandidate))
    return run | {"framework": ", ".join(engines)}, here


def title_of(one: Candidate) -> str:
    """The heading of a benchmark's texts."""
    task = tasks.of(one.config)
    return f"{task.model} ({one.benchmark}), {task.title['en']}" if task else one.benchmark


def add_code(tree: Tree, folder: str, runs: list[InferenceCandidate], request: Request) -> None:
    """Add README, settings and, under source/, the code that ran."""
    identity, _ = request.source()
    tree.add(f"{folder}/README.md", _code_readme(runs, identity, request))
    for number, one in enumerate(distinct(runs)):
        rehearsal = {"rehearsal": texts.BANNER} if request.is_rehearsal else {}
        tree.add_json(f"{folder}/settings/run_{number}.json", rehearsal | settings_of(one))
    add_source(tree, f"{folder}/source", request, with_hidden=False)  # which MLPerf's checker refuses


def distinct(runs: Iterable[InferenceCandidate]) -> list[InferenceCandidate]:
    """The runs, each once."""
    return list({str(one.log): one for one in runs}.values())


def settings_of(one: InferenceCandidate) -> dict:
    """The settings that decided what a run computed."""
    config = {name: one.config[name] for name in _SETTINGS if one.config.get(name) is not None}
    quantize = {key: value for key, value in one.tally.quantize.items() if key not in ("t", "kind")}
    checkpoint = dictionary(one.config.get("checkpoint"))
    weights = {"file": _base(checkpoint.get("file")), "sha256": checkpoint.get("sha256")}
    return shorten_all(
        {**config, "engine": one.engine, "weights": weights, **({"quantize": quantize} if quantize else {})}
    )


def command_of(one: InferenceCandidate) -> str:
    """The command that made the run, ready for a shell, home folders shortened; "" where the run has none."""
    words = one.config.get("command")
    if not isinstance(words, list) or not words:
        return ""
    words = list(map(str, words))
    if words[0].replace("\\", "/").endswith(".py"):
        words = ["python", "-m", "airank_fast.infer", *words[1:]]
    return shorten(shlex.join(words))


def data_text(runs: Iterable[InferenceCandidate]) -> str:
    """Where the evaluation set comes from, with its size and checksum as the runs saw them."""
    lines = []
    for one in runs:
        data = dictionary(one.config.get("data"))
        names = ("source", "eval_samples", "checksum")
        lines.append(", ".join(f"{name} {shorten(str(data[name]))}" for name in names if data.get(name) is not None))
    named = [line for line in dict.fromkeys(lines) if line]
    known = "python -m airank_fast.prepare makes it; python -m airank_fast.prepare --verify DIR checks it."
    return "The evaluation set as the runs read it: " + ("; ".join(named) or "not stated") + f".\n\n{known}\n"


def _code_readme(runs: list[InferenceCandidate], identity: dict | None, request: Request) -> str:
    commands = "\n".join(f"    {text}" for text in dict.fromkeys(map(command_of, runs)) if text)
    version = texts.version_of(identity) if identity else "The program that made the runs"
    parts = [
        texts.banner(request.is_rehearsal) + f"# {title_of(runs[0])}: inference",
        f"{version}: its source is in `source/`, the settings of each run in `settings/`.",
        *([texts.INSTALL + "    python -m pip install 'airank-fast[infer]'\n"] if identity else []),
        "## Data\n\n" + data_text(runs),
        "## Run\n\n" + (commands or "The runs do not have the commands that made them; see `source/`."),
        "## Check\n\n    python -m airank_fast.package --check DIR",
        *([texts.findings_text(request.allowed)] if request.allowed else []),
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def markdown_report(title: str, runs: list[Candidate], is_rehearsal: bool) -> dict[str, str | bytes]:
    """The report where jinja2 is not installed: one Markdown file with the figures of each scenario."""
    rows = ["| run | scenario | precision | valid | result | accuracy |", "|---" * 6 + "|"]
    for number, one in enumerate(runs):
        if not isinstance(one, InferenceCandidate):
            continue
        for scenario in one.tally.scenarios():
            stop = dictionary(one.test(scenario).stop)
            metric = ", ".join(f"{name} {value:.6g}" for name, value in dictionary(stop.get("metric")).items())
            accuracy = headline_value(one.tally.accuracy_of(scenario) or {}, one.tally.metric)
            shown = "-" if accuracy is None else one.tally.metric.text(accuracy)
            valid = "yes" if stop.get("valid") is True else "**no**"
            cells = [number, scenario, one.engine.get("precision"), valid, metric if valid == "yes" else "-", shown]
            rows.append("| " + " | ".join(map(str, cells)) + " |")
    head = texts.banner(is_rehearsal) + f"# {title}: 测试&复现报告 / test and reproduction report\n\n"
    commands = [f"    {text}" for one in runs if isinstance(one, InferenceCandidate) and (text := command_of(one))]
    reproduce = "\nReproduce with\n\n" + "\n".join(dict.fromkeys(commands)) + "\n" if commands else ""
    return {"report.md": head + "\n".join(rows) + "\n" + reproduce}


def manifest(form: str, logs: Mapping[str, tuple[InferenceCandidate, str]], request: Request) -> dict:
    """manifest.json; `logs` has (run, scenario) by the name of each scenario's log or folder in the tree."""
    entries = []
    for name, (one, scenario) in logs.items():
        test = one.test(scenario, ACCURACY if scenario == ACCURACY else PERFORMANCE)
        stop = dictionary(test.stop) if test else {}
        entries.append(
            {
                "log": name,
                "benchmark": one.benchmark,
                "scenario": scenario,
                "precision": one.engine.get("precision"),
                "valid": stop.get("valid"),
                "metric": stop.get("metric"),
            }
        )
    return manifest_of(form, entries, request)


def processor_folder(one: InferenceCandidate, here: dict) -> str:
    """AI-Rank's folder of a terminal's logs: architecture and device, x86_64_cpu or armv8_cpu.

    `here` is empty where this machine is not the one that ran. UserError where the run does not state it then.
    """
    stated = dictionary(one.system.get("machine")).get("architecture")
    if not stated and not here:
        raise UserError(f"{one.log}: must be packaged on the machine that ran, or with --this-machine, got another one")
    name = str(stated or platform.machine())
    name = {"aarch64": "armv8", "arm64": "armv8", "armv7l": "armv7"}.get(name, name)
    return f"{name}_{'gpu' if one.config.get('device') == 'cuda' else 'cpu'}"


def _base(name: object) -> str:
    return str(name or "").replace("\\", "/").rpartition("/")[2]
