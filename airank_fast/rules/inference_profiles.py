"""Rule sets of inference benchmarks as data: scenarios, seeds, accuracy and latency bounds, each with its source.

    profile = PROFILES["v6.1"]
    scenario_of(profile, "offline", "bert_squad").min_queries      # 10833
    bound = bounds("resnet50", "v6.1")
    bound.required, bound.least_correct(50_000)              # 0.756954, 37848
    bounds("resnet50", "airank-2021-05", "mobile").latency_ms

A task is named as in airank_fast/tasks. Accuracies are fractions, BLEU goes to 100; latencies are in ms, durations in
seconds. A profile without scenarios (AI-Rank, FlagPerf) is not measured with LoadGen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import ROUND_CEILING, ROUND_HALF_UP, Decimal

SCENARIOS = ("offline", "server", "singlestream", "multistream")

_POLICIES = "mlcommons/inference_policies, inference_rules.adoc"
_CONF = "mlcommons/inference, loadgen/mlperf.conf"
_CHECKER = "mlcommons/inference, tools/submission"
_PAPER = "Reddi et al., MLPerf Inference Benchmark (2020), tables I, IV and V"
_CLOUD = "AI-Rank docs/software/inference_cloud.md ({}), 模型、数据集和约束条件"
_MOBILE = "AI-Rank docs/software/inference_mobile.md ({}), 模型、数据集和约束条件"
_FIRST, _SECOND = "2020-12-09", "2021-05-28"

# MLPerf's data sets: samples of the whole set, samples that are loaded at a time, and samples of the Offline query.
EVAL_SAMPLES = {"resnet50": 50_000, "bert_squad": 10_833}
PERFORMANCE_SAMPLES = {"resnet50": 1_024, "bert_squad": 10_833}
OFFLINE_SAMPLES = {"resnet50": 24_576, "bert_squad": 10_833}

# Compliance tests' settings, from compliance/nvidia/TEST*/audit.config. TEST01 logs about that many results of a
# performance run; TEST04 issues this sample again and again.
TEST01_LOG_SEED, TEST01_LOG_SAMPLES = 720381539243781796, 4_096
TEST04_INDEX = 3


@dataclass(frozen=True)
class Scenario:
    """What a scenario requires of a run.

    `percentile` is that of the latency that the result or its bound is about; None for Offline. `min_queries` counts
    samples for Offline, which is one query. With early stopping it is the least number that can pass.
    """

    name: str
    percentile: float | None
    min_duration_s: float
    min_queries: int
    samples_per_query: int
    early_stopping: bool


@dataclass(frozen=True)
class Profile:
    """A rule set. `seeds` are of the samples that are loaded, of their order, and of the schedule.

    `loadgen` is the beginning of the versions that may be used, None for any. `compliance` has the compliance tests by
    task.
    """

    name: str
    source: str
    scenarios: Mapping[str, Scenario] = field(default_factory=dict)
    seeds: tuple[int, int, int] = (0, 0, 0)
    loadgen: str | None = None
    compliance: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    test05_seeds: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Bound:
    """The accuracy that a prediction must reach, a factor of the float32 reference's, and the latency bound.

    Where a text rounds the product, as AI-Rank does "at the fifth significant digit" (99 % of 76.46 is 75.6954, read as
    75.700), the larger of both is required.
    """

    metric: str
    reference: float
    factor: float
    latency_ms: float | None
    source: str
    is_rounded: bool = False

    @property
    def exact(self) -> float:
        """reference x factor, without rounding."""
        return float(self._product)

    @property
    def required(self) -> float:
        """The accuracy that is required, in the unit of the metric."""
        return float(self._required)

    def least_correct(self, counted: int) -> int:
        """The least number of correct predictions among `counted` that reaches the bound, of a metric that is a share.

        By whole numbers: a share that only rounds to the bound is below it.
        """
        return int((self._required * counted).to_integral_value(rounding=ROUND_CEILING))

    def is_reached(self, value: float) -> bool:
        """Whether a value reaches the bound; NaN does not."""
        return value >= self.required

    @property
    def _product(self) -> Decimal:
        return Decimal(repr(self.reference)) * Decimal(repr(self.factor))

    @property
    def _required(self) -> Decimal:
        product = self._product
        if not self.is_rounded:
            return product
        fourth = Decimal(1).scaleb(product.adjusted() - 3)  # rounding the fifth digit away leaves four
        return max(product, product.quantize(fourth, rounding=ROUND_HALF_UP))


def _scenarios(*scenarios: Scenario) -> dict[str, Scenario]:
    return {scenario.name: scenario for scenario in scenarios}


# From v1.0 on 600 s, from v2.0 on early stopping: 64 queries at p90 and 662 at p99 estimate a percentile, and 459
# queries in time meet a bound at p99.
_WITH_EARLY_STOPPING = _scenarios(
    Scenario("offline", None, 600.0, 24_576, 1, early_stopping=False),
    Scenario("server", 0.99, 600.0, 459, 1, early_stopping=True),
    Scenario("singlestream", 0.90, 600.0, 64, 1, early_stopping=True),
    Scenario("multistream", 0.99, 600.0, 662, 8, early_stopping=True),
)
# MultiStream of these rounds issues N samples at a fixed rate, which LoadGen cannot do since 2.0: it is left out.
_WITHOUT_EARLY_STOPPING = _scenarios(
    Scenario("offline", None, 60.0, 24_576, 1, early_stopping=False),
    Scenario("server", 0.99, 60.0, 270_336, 1, early_stopping=False),
    Scenario("singlestream", 0.90, 60.0, 1_024, 1, early_stopping=False),
)

PROFILES: dict[str, Profile] = {
    "v6.1": Profile(
        "v6.1",
        f"{_POLICIES} of 2026-07; {_CONF} of 6.0.17",
        _WITH_EARLY_STOPPING,
        (2085463073848966840, 2747215439041700203, 16159082839903944936),
        "6.0",
        {"resnet50": ("TEST01", "TEST04"), "bert_squad": ("TEST01",)},
    ),
    "v4.0": Profile(
        "v4.0",
        f"{_POLICIES} of 2024-02; {_CONF} of v4.0",
        _WITH_EARLY_STOPPING,
        (13281865557512327830, 198141574272810017, 7575108116881280410),
        "4.0",
        {"resnet50": ("TEST01", "TEST04", "TEST05"), "bert_squad": ("TEST01", "TEST05")},
        (2376919268182438552, 11176391829184272374, 3911940905271271337),
    ),
    "paper": Profile(
        "paper",
        f"{_PAPER}; seeds of v0.7: {_CHECKER}/submission-checker.py",
        _WITHOUT_EARLY_STOPPING,
        (12786827339337101903, 12640797754436136668, 3135815929913719677),
    ),
    "airank-2021-05": Profile("airank-2021-05", f"AI-Rank docs/software/inference_*.md ({_SECOND})"),
    "airank-2020-12": Profile("airank-2020-12", f"AI-Rank docs/software/inference_*.md ({_FIRST})"),
    "flagperf": Profile("flagperf", "FlagPerf docs/inference/inference-case-doc.md"),
}


def scenario_of(profile: Profile, name: str, task_name: str) -> Scenario | None:
    """A scenario of the profile with the task's own number of Offline samples; None if the profile lacks it.

    A task that MLPerf does not know has the number of ResNet-50, MLPerf's for sets of 24,576 samples and more.
    """
    scenario = profile.scenarios.get(name)
    if scenario is None or name != "offline":
        return scenario
    return replace(scenario, min_queries=OFFLINE_SAMPLES.get(task_name, scenario.min_queries))


def num_issued(samples: int, per_query: int, loaded: int) -> int:
    """How many samples LoadGen issues in an accuracy run over a set of `samples`, of which it loads `loaded` at a time.

    Each once; and of each part that is loaded as many again as fill up its last query, MultiStream's of several samples
    (loadgen/loadgen.cc, GenerateLoadableSets and GenerateQueries).
    """
    whole, rest = divmod(samples, loaded)
    return per_query * (whole * -(-loaded // per_query) + -(-rest // per_query))


def compliance_of(profile: Profile, task_name: str) -> tuple[str, ...]:
    """The compliance tests that the profile requires of a task."""
    return profile.compliance.get(task_name, ())


def _mlperf(metric: str, reference: float, latency_ms: float, source: str, factor: float = 0.99) -> tuple[Bound, ...]:
    return (Bound(metric, reference, factor, latency_ms, source),)


def _airank(source: str, latency_ms: float | None, **references: float) -> tuple[Bound, ...]:
    return tuple(Bound(metric, value, 0.99, latency_ms, source, True) for metric, value in references.items())


_V6, _V4 = f"{_CHECKER}/submission_checker/constants.py, v6.1", f"{_CHECKER}/submission_checker.py, v4.0"
_CLOUD_2020, _CLOUD_2021 = _CLOUD.format(_FIRST), _CLOUD.format(_SECOND)
_MOBILE_2020, _MOBILE_2021 = _MOBILE.format(_FIRST), _MOBILE.format(_SECOND)
# (profile, device) -> task -> bounds, the headline metric first. MLPerf's v6.1 has Server for neither of the two
# networks; its latencies are those that LoadGen's mlperf.conf still has. AI-Rank's are of the software texts; the
# hardware text of 2021-05 has SSD-MobileNetV1 (VOC, 73.1) for SSD-MobileNetV3.
_BOUNDS: dict[tuple[str, str], dict[str, tuple[Bound, ...]]] = {
    ("v6.1", "cloud"): {
        "resnet50": _mlperf("top1", 0.7646, 15.0, f"{_V6}; {_CONF}"),
        "bert_squad": _mlperf("f1", 0.90874, 130.0, f"{_V6}; {_CONF}"),
    },
    ("v4.0", "cloud"): {
        "resnet50": _mlperf("top1", 0.7646, 15.0, _V4),
        "bert_squad": _mlperf("f1", 0.90874, 130.0, _V4),
    },
    ("paper", "cloud"): {
        "resnet50": _mlperf("top1", 0.76456, 15.0, _PAPER),
        "bert_squad": _mlperf("f1", 0.90874, 130.0, f"{_CHECKER}/submission-checker.py, v0.7"),
    },
    ("airank-2021-05", "cloud"): {
        "resnet50": _airank(_CLOUD_2021, 15.0, top1=0.761),
        "bert_squad": _airank(_CLOUD_2021, 130.0, f1=0.90874),
        "mask_rcnn": _airank(_CLOUD_2021, 100.0, box_ap=0.377, mask_ap=0.339),
        "yolov3": _airank(_CLOUD_2021, 100.0, box_ap=0.370),
        "hrnet": _airank(_CLOUD_2021, 500.0, mean_iou=0.795),
        "transformer": _airank(_CLOUD_2021, 130.0, bleu=25.0),
    },
    ("airank-2020-12", "cloud"): {
        "resnet50": _airank(_CLOUD_2020, 15.0, top1=0.765),
        "bert_squad": _airank(_CLOUD_2020, 130.0, f1=0.90874),
        "mask_rcnn": _airank(_CLOUD_2020, 100.0, box_ap=0.379, mask_ap=0.342),
        "yolov3": _airank(_CLOUD_2020, 100.0, box_ap=0.389),
        "deeplabv3plus": _airank(_CLOUD_2020, 500.0, mean_iou=0.793),
        "transformer": _airank(_CLOUD_2020, 130.0, bleu=26.35),
    },
    ("airank-2021-05", "mobile"): {
        "mobilenet_v1": _airank(_MOBILE_2021, 200.0, top1=0.709),
        "mobilenet_v2": _airank(_MOBILE_2021, 150.0, top1=0.719),
        "mobilenet_v3_large": _airank(_MOBILE_2021, 150.0, top1=0.752),
        "mobilenet_v3_small": _airank(_MOBILE_2021, 80.0, top1=0.681),
        "resnet50": _airank(_MOBILE_2021, 1100.0, top1=0.761),
        "ssd_mobilenet_v3_large": _airank(_MOBILE_2021, 250.0, box_ap=0.226),
        "yolov3_mobilenet_v1": _airank(_MOBILE_2021, None, box_ap=0.293),
        "hrnet": _airank(_MOBILE_2021, None, mean_iou=0.780),
    },
    ("airank-2020-12", "mobile"): {
        "mobilenet_v1": _airank(_MOBILE_2020, 50.0, top1=0.7099),
        "mobilenet_v2": _airank(_MOBILE_2020, 50.0, top1=0.7215),
        "mobilenet_v3_large": _airank(_MOBILE_2020, 50.0, top1=0.7532),
        "mobilenet_v3_small": _airank(_MOBILE_2020, 50.0, top1=0.6824),
        "resnet50": _airank(_MOBILE_2020, 50.0, top1=0.765),
        "ssd_mobilenet_v1": _airank(_MOBILE_2020, 100.0, box_ap=0.732),
        "yolov3_mobilenet_v1": _airank(_MOBILE_2020, 100.0, box_ap=0.293),
        "deeplabv3plus": _airank(_MOBILE_2020, 1000.0, mean_iou=0.7328),
    },
}


def every_bound(task_name: str, profile: str, device: str = "cloud") -> tuple[Bound, ...]:
    """The bounds of a task, one a metric, the headline metric first; () if the profile has none.

    `device` is "cloud" or "mobile": AI-Rank has a text for each.
    """
    return _BOUNDS.get((profile, device), {}).get(task_name, ())


def bounds(task_name: str, profile: str, device: str = "cloud") -> Bound | None:
    """The bound of a task's headline metric; None if the profile has none."""
    return next(iter(every_bound(task_name, profile, device)), None)


def models_of(profile: str, device: str = "cloud") -> tuple[str, ...]:
    """The models that a profile lists, of which coverage is a share."""
    return tuple(_BOUNDS.get((profile, device), ()))
