"""Made-up inference runs: `inference_run` gives the events of a whole run by a clock of its own; `write` its directory.

    events = inference_run()                                            # v6.1, edge: ResNet-50 on ImageNet
    events = inference_run("v4.0", ("server", "offline"))
    events = inference_run("airank-2021-05", ("offline", "online"), eval_samples=2000, is_rehearsal=True)
    write(tmp_path / "run", events)

The same arguments give the same events. Latencies are long, so that 600 s need few queries.
"""

from __future__ import annotations

import math
import random
from pathlib import Path

from airank_fast import tasks
from airank_fast.record.events import to_line
from airank_fast.record.inference_logs import write_logs
from airank_fast.rules import early_stopping, inference_profiles

SCENARIOS = {
    "paper": ("singlestream", "offline"),
    "v4.0": ("singlestream", "multistream", "server", "offline"),
    "v6.1": ("singlestream", "multistream", "offline"),
    "airank-2020-12": ("offline", "online", "latency", "max-batch"),
    "airank-2021-05": ("offline", "online", "latency", "max-batch"),
    "flagperf": ("flagperf",),
}
SEEDS = ("effective_qsl_rng_seed", "effective_sample_index_rng_seed", "effective_schedule_rng_seed")
PERCENTILES = {"singlestream": 0.90, "multistream": 0.99, "server": 0.99}
QUERY_S = {"singlestream": 0.5, "multistream": 0.8, "server": 0.005, "latency": 0.010, "online": 0.009}
BATCH = 512
MEMORY = {"total_bytes": 420 << 20, "model_bytes": 210 << 20, "run_bytes": 160 << 20}
SUBMISSION = {"org": "Example", "platform": "example-1", "status": "available", "systems_kind": "edge"}
SYSTEM = {
    "accelerator_memory_capacity": "N/A",
    "accelerator_name": "N/A",
    "accelerators_per_node": 0,
    "host_memory_capacity": "64 GB",
    "host_processor_core_count": 16,
    "host_processor_name": "Example CPU 6148",
    "host_processors_per_node": 2,
    "host_storage_capacity": "1 TB",
    "host_storage_type": "SSD",
    "number_of_nodes": 1,
    "operating_system": "Ubuntu 24.04",
    "software_stack": "airank_fast 0.1, onnxruntime 1.32",
    "submitter": "Example",
    "hardware_name": "example-1",
    "hardware_type": "datacenter",
}


def inference_run(profile="v6.1", scenarios=None, *, seed=0, **config) -> list[dict]:
    """The events of a sound run that ends as valid. `config` replaces fields of infer_config, and `eval_samples`."""
    return InferenceStory(profile, scenarios, seed, **config).tell().events


def write(directory: Path, events: list[dict]) -> Path:
    """A run directory of these events, with the files made from them; predictions are empty, LoadGen's logs missing."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "events.jsonl").write_text("".join(to_line(event) + "\n" for event in events))
    write_logs(events, directory)
    for event in events:
        for name in (event.get("predictions") or {}).get("files", ()) if event["kind"] == "accuracy" else ():
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).touch()
    return directory


class InferenceStory:
    """Events of a plausible inference run in `events`; see `inference_run`."""

    def __init__(self, profile="v6.1", scenarios=None, seed=0, eval_samples=50_000, accuracy=0.7612, **config):
        self.random = random.Random(seed)
        self.t = 1_700_000_000 + self.random.random() * 1000
        self.profile, self.scenarios = profile, tuple(scenarios or SCENARIOS[profile])
        self.eval_samples, self.correct = eval_samples, round(accuracy * eval_samples)
        self.is_loadgen = not profile.startswith(("airank", "flagperf"))
        self.config = config
        self.events = []

    def emit(self, kind, **fields):
        self.events.append({"t": round(self.t, 6), "kind": kind, **fields})

    def pause(self, seconds):
        self.t += seconds * self.random.uniform(0.5, 1.5)

    def tell(self):
        self.begin()
        for scenario in self.scenarios:
            self.scenario(scenario)
        return self.end()

    def begin(self):
        self.emit("process_start", pid=self.random.randrange(1, 1 << 15))
        self.pause(3)
        self.emit("infer_config", **self.infer_config())
        self.emit("system", **SYSTEM)
        self.emit("cache_clear", value=True)
        self.pause(2)
        self.emit("model", **self.model())
        if self.infer_config()["precision"] == "int8":
            names = [f"n{index:08}.JPEG" for index in range(8)]
            quantize = {"method": "static QDQ", "per_channel": True, "num_samples": 8, "seed": 1}
            self.emit("quantize", **quantize, samples=names, checksum="feed")
        self.counts = {"quality": {"top1": self.correct / self.eval_samples}}
        self.counts |= {"correct": self.correct, "counted": self.eval_samples}
        bound = self.stated()
        if bound is None:
            self.emit("reference", **self.counts, source="torch fp32 on the same weights")
        else:
            self.emit("reference", quality={"top1": bound.reference}, source=bound.source)
        return self

    def infer_config(self):
        task = tasks.find(self.config.get("benchmark", "resnet50"))
        duration_s = 600.0 if self.profile in ("v4.0", "v6.1") else 60.0
        return {
            "benchmark": "resnet50",
            "task": task.facts({}),
            "unit": task.unit,
            "profile": self.profile,
            "scenarios": list(self.scenarios),
            "backend": "onnxruntime",
            "precision": "fp32",
            "device": "cpu",
            "devices": ["Example CPU 6148"],
            "threads": 2,
            "max_batch": BATCH,
            "duration_s": duration_s if self.is_loadgen else None,
            "target_latency_s": 0.015 if {"server", "online", "max-batch"} & set(self.scenarios) else None,
            "is_quick": False,
            "is_rehearsal": False,
            "data": {"source": "ImageNet-2012", "checksum": "c0ffee", "eval_samples": self.eval_samples},
            "checkpoint": {"file": "resnet50.pth", "sha256": "ab" * 32, "trained_here": False, "run": None},
            "division": "closed",
            "submission": SUBMISSION,
            "seed": 1,
            "command": ["python", "-m", "airank_fast.infer", "resnet50"],
            **self.config,
        }

    def model(self):
        engine = {"name": "onnxruntime", "version": "1.32.0", "precision": self.infer_config()["precision"]}
        engine |= {"device": "cpu", "threads": 2, "providers": ["CPUExecutionProvider"], "nodes": {"Conv": 53}}
        seconds = {"load_s": 0.81, "export_s": 25.3, "first_inference_s": 0.094}
        return {
            "parameters": 25_557_032,
            "flops_per_sample": 8_178_000_000,
            "file_bytes": 102_340_000,
            "engine": engine | {"file_bytes": 102_340_000, "load_s": 0.81, "export_s": 25.3},
            **seconds,
        }

    def scenario(self, scenario):
        if self.is_loadgen or scenario == self.scenarios[0]:
            self.check_accuracy(scenario)
        self.emit("warm_up", times=[[1, 0.006], [8, 0.031], [BATCH, 1.63]])
        if scenario == "server":
            for qps, valid in ((8.0, False), (4.0, True)):
                self.pause(20)
                over = 0 if valid else 37
                judged = {"queries": 680, "over_latency": over, "p99_s": 0.0084 if valid else 0.0402, "valid": valid}
                self.emit("probe", scenario=scenario, purpose="search", target_qps=qps, **judged, duration_s=20.0)
            self.emit("search", scenario=scenario, valid_qps=4.0, refused_qps=8.0, probes=2)
        self.test(scenario)
        if self.infer_config()["division"] == "closed":
            for mode in inference_profiles.PROFILES[self.profile].compliance.get("resnet50", ()):
                self.test(scenario, mode)
        return self

    def check_accuracy(self, scenario):
        """The accuracy run: every sample once; each 131st wrong, until as many are right as in the reference."""
        self.pause(2)
        settings = self.settings(scenario) | {"mode": "accuracy"}
        self.emit("test_start", scenario=scenario, mode="accuracy", settings=settings)
        duration_s = self.eval_samples / 40
        self.t += duration_s
        per_query = 8 if scenario == "multistream" else 1  # LoadGen fills up the last query
        num_samples = -(-self.eval_samples // per_query) * per_query
        num_queries = 1 if scenario in ("offline", "flagperf") else num_samples // per_query
        self.emit("test_stop", **self.stop(scenario, "accuracy", {}, num_queries, num_samples, duration_s))
        wrong = self.eval_samples - self.correct
        order = sorted(range(self.eval_samples), key=lambda index: index * 131 % self.eval_samples)
        results = [1] * self.eval_samples
        for index in order[:wrong]:
            results[index] = 0
        self.emit(
            "accuracy",
            scenario=scenario,
            **self.counts,
            **self.required(),
            passed=True,
            agreement=0.9998,
            largest_error=2.1e-5,
            predictions={"files": [f"predictions/{scenario}.npz"]},
            sample_results=results,
        )

    def stated(self):
        """The bound of the profile, which published weights on the whole set must reach; None of others."""
        own = self.infer_config()["checkpoint"].get("trained_here") or self.infer_config()["is_rehearsal"]
        return None if own else inference_profiles.bounds("resnet50", self.profile)

    def required(self):
        bound, own = self.stated(), self.counts["quality"]["top1"]
        if bound is None:
            return {"required": 0.99 * own, "factor": 0.99, "reference": own}
        return {"required": bound.required, "factor": bound.factor, "reference": bound.reference}

    def settings(self, scenario):
        return {
            "scenario": scenario,
            "mode": "performance",
            "profile": self.profile,
            "min_duration_s": self.infer_config()["duration_s"] or 0.0,
            "max_duration_s": None,
            "min_queries": {"server": 662, "multistream": 662, "singlestream": 64}.get(scenario, 1),
            "samples_per_query": {"multistream": 8, "max-batch": 2}.get(scenario, 1),
            "target_latency_s": self.infer_config()["target_latency_s"] if scenario != "singlestream" else None,
            "target_qps": {"server": 4.0, "offline": 45.0}.get(scenario),
            "expected_latency_s": None,
            "performance_count": 1024,
        }

    def test(self, scenario, mode="performance"):
        """A test: its start, its queries in chunks, and a stop whose figures follow from them."""
        self.pause(3)
        settings = self.settings(scenario) | {"mode": mode}
        self.emit("test_start", scenario=scenario, mode=mode, settings=settings)
        queries = getattr(self, "_" + scenario.replace("-", "_"))()
        count = len(queries["latency_s"])
        done = [start + took for start, took in zip(queries["issued_s"], queries["latency_s"], strict=True)]
        duration_s = max(done)
        self.t += duration_s + 0.01
        for first in range(0, count, 1000):
            part = {name: values[first : first + 1000] for name, values in queries.items()}
            self.emit("queries", scenario=scenario, mode=mode, first=first, **part)
        whole = scenario in ("offline", "flagperf")
        num_samples = sum(queries["batch"]) if whole or scenario == "max-batch" else count
        num_samples *= 8 if scenario == "multistream" else 1
        metric = self.metric(scenario, queries, num_samples, duration_s)
        num_queries = 1 if scenario == "offline" and self.is_loadgen else count
        stop = self.stop(scenario, mode, metric, num_queries, num_samples, duration_s)
        self.emit("test_stop", **stop, **self.judged(scenario, queries["latency_s"]))

    def metric(self, scenario, queries, num_samples, duration_s):
        latency_s = sorted(queries["latency_s"])
        metric = {"samples_per_s": num_samples / duration_s}
        if scenario == "singlestream":
            metric = self.estimates(latency_s, {"latency_p90_s": 0.9, "latency_p99_s": 0.99})
        elif scenario == "multistream":
            metric = self.estimates(latency_s, {"latency_p99_s": 0.99})
        elif scenario == "server":
            issued_s = queries["issued_s"][-1]
            metric = {"scheduled_qps": len(latency_s) / issued_s, "completed_qps": len(latency_s) / duration_s}
            metric |= {"latency_p99_s": latency_s[int(len(latency_s) * 0.99)]}
        elif scenario == "latency":
            metric = {"latency_p90_s": _linear(latency_s, 90)}
        elif scenario == "online":
            metric |= {"concurrency": 4, "max_latency_s": latency_s[-1]}
        elif scenario == "max-batch":
            metric |= {"batch": 2, "latency_s": latency_s[-1]}
        elif scenario == "flagperf":
            core_s = sum(latency_s)
            metric = {"p_infer_whole": num_samples / duration_s, "p_infer_core": num_samples / core_s}
            metric |= {"p_val_whole": 20.0, "p_val_core": 24.0}
        return metric

    def estimates(self, latency_s, shares):
        """Percentiles as LoadGen reports them: early-stopping estimates, in profiles with early stopping."""
        if self.profile == "paper":
            return {name: latency_s[int(len(latency_s) * share)] for name, share in shares.items()}
        found = {name: early_stopping.estimate(latency_s, share) for name, share in shares.items()}
        return {name: value for name, value in found.items() if value is not None}

    def judged(self, scenario, latency_s):
        """Over-latency and early stopping of a performance test."""
        bound_s = self.infer_config()["target_latency_s"] if scenario in ("server", "online", "max-batch") else None
        over = None if bound_s is None else sum(took > bound_s for took in latency_s)
        percentile = PERCENTILES.get(scenario) if self.profile in ("v4.0", "v6.1") else None
        early = None
        if percentile is not None:
            is_server = scenario == "server"
            estimate_s = None if is_server else early_stopping.estimate(sorted(latency_s), percentile)
            met = early_stopping.is_met(len(latency_s), over, percentile) if is_server else estimate_s is not None
            early = {"percentile": percentile, "met": met, "estimate_s": estimate_s}
        return {"over_latency": over, "early_stopping": early}

    def stop(self, scenario, mode, metric, num_queries, num_samples, duration_s):
        profile = inference_profiles.PROFILES[self.profile]
        seeds = profile.test05_seeds if mode == "TEST05" else profile.seeds
        effective = dict(zip(SEEDS, seeds, strict=True)) if self.is_loadgen else {}
        version = {"v4.0": "4.0.1"}.get(self.profile, "6.0.17")
        loadgen = {"version": version, "directory": f"loadgen/{scenario}/{mode}"}
        return {
            "scenario": scenario,
            "mode": mode,
            "valid": True,
            "reasons": [],
            "metric": metric,
            "num_queries": num_queries,
            "num_samples": num_samples,
            "duration_s": duration_s,
            "effective": effective,
            "loadgen": loadgen if self.is_loadgen else None,
            "memory": dict(MEMORY),
        }

    def end(self, status="success", reason="valid", detail=""):
        self.emit("run_stop", status=status, reason=reason, detail=detail)
        self.pause(1)
        self.emit("process_stop")
        return self

    # queries of the scenarios

    def _took(self, scenario):
        """A latency: of 99 in 100 within 10 % of the usual one."""
        return QUERY_S[scenario] * self.random.uniform(0.95, 1.05) * (1.3 if self.random.random() < 0.005 else 1)

    def _closed(self, scenario, until_s=math.inf, count=math.inf, batch=1):
        now, issued_s, latency_s = 0.0, [], []
        while now < until_s and len(issued_s) < count:
            took = self._took(scenario)
            issued_s.append(now)
            latency_s.append(took)
            now += took + 1e-5
        return {"issued_s": issued_s, "latency_s": latency_s, "batch": [batch] * len(issued_s)}

    def _duration_s(self):
        return self.infer_config()["duration_s"] + 1

    def _singlestream(self):
        return self._closed("singlestream", max(self._duration_s(), 601))

    def _multistream(self):
        return self._closed("multistream", self._duration_s(), batch=8)

    def _server(self):
        now, free = 0.0, 0.0
        queries = {name: [] for name in ("issued_s", "latency_s", "queue_s", "batch")}
        while now < self._duration_s():
            now += self.random.expovariate(4.0)
            begin, service_s = max(now, free), self._took("server")
            free = begin + service_s
            row = (now, free - now, begin - now, 1)
            for name, value in zip(queries, row, strict=True):
                queries[name].append(value)
        return queries

    def _offline(self):
        num_samples = 27_000 if self.is_loadgen else self.eval_samples
        return self._batches(num_samples, BATCH, 1 / 44)

    def _flagperf(self):
        return self._batches(self.eval_samples, 256, 1 / 44)

    def _batches(self, num_samples, size, sample_s):
        """The whole set in batches; of AI-Rank's clients with the number of right answers in each."""
        now, rows, results = 0.0, [], self._results()
        for first in range(0, num_samples, size):
            batch = min(size, num_samples - first)
            took = batch * sample_s * self.random.uniform(0.98, 1.02)
            rows.append((now, took, batch, sum(results[first : first + batch])))
            now += took + 1e-4
        names = ("issued_s", "latency_s", "batch", "correct")
        queries = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
        if self.is_loadgen:
            del queries["correct"]
        return queries

    def _results(self):
        return next((e["sample_results"] for e in self.events if e["kind"] == "accuracy"), [])

    def _online(self):
        """Four clients, each with one request at a time, until every sample was asked for once."""
        free, rows, results = [0.0] * 4, [], self._results()
        for index in range(self.eval_samples):
            client = free.index(min(free))
            took = self._took("online")
            rows.append((free[client], took, 1, results[index]))
            free[client] += took + 1e-5
        names = ("issued_s", "latency_s", "batch", "correct")
        return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))

    def _latency(self):
        return self._closed("latency", count=1000)

    def _max_batch(self):
        rows, now, results = [], 0.0, self._results()
        for first in range(0, self.eval_samples - 1, 2):
            took = 0.0125 * self.random.uniform(0.95, 1.05)
            rows.append((now, took, 2, sum(results[first : first + 2])))
            now += took + 1e-5
        names = ("issued_s", "latency_s", "batch", "correct")
        return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def _linear(ascending, percent):
    """numpy's percentile, written here again so that a test does not compare a function with itself."""
    at = (len(ascending) - 1) * percent / 100
    low = int(at)
    return ascending[low] + (ascending[min(low + 1, len(ascending) - 1)] - ascending[low]) * (at - low)
