"""The MLPerf results of a submission: the runs that count, and the errors of the rules about them."""

from __future__ import annotations

from dataclasses import dataclass

from airank_fast.errors import UserError
from airank_fast.rules import scoring
from airank_fast.rules.findings import ERROR, Finding, Rule
from airank_fast.rules.mlperf import rcp
from airank_fast.rules.mlperf.result import check_set
from airank_fast.rules.scoring import BENCHMARKS, RunResult, SetResult
from airank_fast.submission.candidates import Candidate, by_benchmark

_RULES = "MLPerf training rules, Benchmark Results"
RUN = Rule(name="package.run", severity=ERROR, source=_RULES)
ONE_SET = Rule(name="package.one_set", severity=ERROR, source=_RULES)


@dataclass(frozen=True)
class Result:
    """A benchmark's result with the runs that count, in the order of their starts."""

    score: SetResult
    runs: list[Candidate]

    def of(self, one: Candidate) -> RunResult:
        """The result of one of the runs."""
        return next(run for run in self.score.chosen if run.name == str(one.run.path))

    @property
    def scaling(self) -> str:
        """How its convergence compares with the reference, in words."""
        score, benchmark = self.score, self.score.benchmark
        if rcp.points(benchmark.name) is None:
            return "not scaled: mlperf-logging, which holds the reference convergence points, is not installed"
        if score.reference is None or score.converged_at is None:
            return "not scaled: no reference convergence point for this task and batch size"
        means = f"{score.converged_at:.10g} {benchmark.unit} to converge, the reference {score.reference.mean:.10g}"
        return f"scaled by {score.scaling:.6f}: {means}" if score.scaling > 1 else f"not scaled: {means}"


def choose(candidates: list[Candidate], own_targets: bool = False) -> dict[str, Result]:
    """The result of each benchmark (resnet, bert); of more runs than it requires, that of the median window.

    `own_targets`: a rehearsal, judged by the runs' own targets. UserError for fewer runs, or another benchmark.
    """
    results = {}
    for name, runs in by_benchmark(candidates, lambda one: one.mlperf_name).items():
        if name not in BENCHMARKS:
            raise UserError(f"benchmark: must be one of {', '.join(BENCHMARKS)}, got {name}")
        if len(runs) < BENCHMARKS[name].num_runs:
            raise UserError(f"{name}: must have {BENCHMARKS[name].num_runs} runs, got {len(runs)}")
        counted = [scoring.run_result(one.run, own_targets) for one in runs]
        reference = None if own_targets else scoring.reference_point(name, counted)  # of the benchmark's task
        score = scoring.set_result(BENCHMARKS[name], counted, reference)
        by_path = {str(one.run.path): one for one in runs}
        results[name] = Result(score, [by_path[run.name] for run in score.chosen])
    return results


def refusals(results: dict[str, Result]) -> list[Finding]:
    """The errors about the logs of each result, and the reasons why its runs are no result."""
    errors = []
    for name, result in results.items():
        errors += [
            finding for finding in check_set([one.log for one in result.runs], name) if finding.severity == ERROR
        ]
        for one in result.runs:
            errors += [
                RUN.broken(str(one.log), None, doubt, "a whole run of the benchmark is required")
                for doubt in result.of(one).doubts
            ]
            for field in ("world_size", "precision"):  # MLPerf's logs lack them
                value, first = one.config.get(field), result.runs[0].config.get(field)
                if value != first:
                    required = f"{first!r} as in the others"
                    errors.append(ONE_SET.broken(str(one.log), None, f"{field} {value!r}", required))
    return errors
