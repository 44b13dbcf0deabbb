"""BERT under MLPerf's training rules: when to evaluate, and hyper-parameters for a global batch.

Source: the reference convergence points of ruleset 4.0.0, `rcp_checker/training_4.0.0/rcps_bert.json` of the package
mlperf-logging (hyper-parameters with which the reference was trained, each from its starting checkpoint; epsilon is
1e-6 in all). A closed-division run at another batch is judged between the neighbouring points.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class Reference(NamedTuple):
    """Hyper-parameters of a convergence point. The warm-up begins at `start_warmup_step`, which may be negative."""

    learning_rate: float
    steps: int
    warmup_steps: int = 0
    start_warmup_step: int = 0
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.01


REFERENCES = {
    256: Reference(3.5e-4, 13700),
    448: Reference(4.25e-4, 6700),
    1536: Reference(2e-3, 2254, beta1=0.66, beta2=0.996),
    3072: Reference(2e-3, 1141, 100, beta1=0.66, beta2=0.998),
    4096: Reference(2.4e-3, 855, beta1=0.66, beta2=0.998),
    4608: Reference(3.5e-3, 700, beta1=0.62, beta2=0.9),
    6144: Reference(2.9293e-3, 700, 0, -700, 0.7206, 0.78921, 0.001),
    6912: Reference(2.9293e-3, 700, 0, -700, 0.7206, 0.78921, 0.001),
    8192: Reference(2.88293e-3, 600, 287, -76, 0.88, 0.88, 0.0166629),
    8704: Reference(2.971656225e-3, 600, 287, -76, 0.88, 0.88, 0.0166629),
    12288: Reference(3.1e-3, 500, 300, -100, 0.8, 0.925, 0.0166629),
    13056: Reference(3.19540686e-3, 500, 300, -100, 0.8, 0.925, 0.0166629),
    16384: Reference(3.3e-3, 600, 290, -100, 0.75, 0.9, 0.0166629),
}
"""By global batch."""


def hyper_parameters(batch_size: int) -> Reference:
    """Those of the convergence point at this global batch; where there is none, of the nearest, carried over.

    Carried over: as many samples, so steps go with 1 / batch; the learning rate goes with the root of the batch
    (You et al., 2020). That is a place to start from, not a tried setting.
    """
    nearest = min(REFERENCES, key=lambda batch: abs(math.log(batch / batch_size)))
    ratio, found = batch_size / nearest, REFERENCES[nearest]
    if ratio == 1:
        return found
    return found._replace(
        learning_rate=found.learning_rate * math.sqrt(ratio),
        steps=math.ceil(found.steps / ratio),
        warmup_steps=round(found.warmup_steps / ratio),
        start_warmup_step=round(found.start_warmup_step / ratio),
    )


def evaluation_samples(batch_size: int) -> int:
    """Samples between two evaluations, for a global batch (MLPerf training rules, BERT)."""
    return max(1, int(0.05 * (230.23 * batch_size + 3_000_000) / 25_000)) * 25_000
