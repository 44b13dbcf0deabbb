"""Learning-rate schedules as pure functions of the step."""

from __future__ import annotations


def polynomial_decay(
    step: int,
    *,
    base: float,
    end: float,
    power: float,
    warmup_steps: int,
    decay_steps: int,
) -> float:
    """Learning rate of 0-based ``step``: linear warm-up to ``base``, then polynomial decay to ``end``.

    lr = base * (step + 1) / warmup_steps                                     while step < warmup_steps
    lr = end + (base - end) * (1 - (step - warmup_steps) / decay_steps)^power  for decay_steps steps
    lr = end                                                                  after them

    MLPerf training rules, closed division, ResNet: power 2, end 1e-4.
    """
    if step < warmup_steps:
        return base * (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / decay_steps)
    return end + (base - end) * (1.0 - progress) ** power
