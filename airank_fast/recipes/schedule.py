"""Learning-rate schedules as pure functions of the step."""

from __future__ import annotations

from collections.abc import Iterable


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


def decay_under_warmup(
    step: int,
    *,
    base: float,
    end: float,
    power: float,
    warmup_steps: int,
    total_steps: int,
    start_warmup_step: int = 0,
) -> float:
    """Learning rate of 0-based ``step``: polynomial decay over all steps, with linear warm-up in place of its start.

    lr = base * (step + 1 - start_warmup_step) / warmup_steps   while step - start_warmup_step < warmup_steps
    lr = end + (base - end) * (1 - step / total_steps)^power    after them

    So the rate jumps down where the warm-up ends. A start_warmup_step below 0 begins within the warm-up. As in MLPerf's
    BERT reference (mlcommons/training, language_model/tensorflow/bert/optimization.py, whose warm-up is a step behind)
    and NVIDIA's (DeepLearningExamples, PyTorch/LanguageModeling/BERT/schedulers.py, PolyWarmUpScheduler).
    """
    warmed_up = step - start_warmup_step
    if warmed_up < warmup_steps:
        return base * (warmed_up + 1) / warmup_steps
    return end + (base - end) * (1.0 - min(1.0, step / total_steps)) ** power


def step_decay(
    step: int,
    *,
    base: float,
    factor: float,
    warmup_steps: int,
    decay_steps: Iterable[int],
    warmup_power: float = 1.0,
) -> float:
    """Learning rate of 0-based ``step``: a warm-up to ``base``, which each of ``decay_steps`` multiplies.

    lr = base * ((step + 1) / warmup_steps)^warmup_power  while step < warmup_steps
    lr = base * factor^(number of decay_steps <= step)     after them
    """
    if step < warmup_steps:
        return base * (step + 1) ** warmup_power / warmup_steps**warmup_power
    return base * factor ** sum(step >= each for each in decay_steps)


def inverse_square_root(step: int, *, base: float, warmup_steps: int) -> float:
    """Learning rate of 0-based ``step``: linear warm-up to ``base``, then falling with the root of the step.

    lr = base * (step + 1) / warmup_steps        while step < warmup_steps
    lr = base * (warmup_steps / (step + 1))^0.5  after them

    As fairseq's inverse_sqrt. The Transformer paper's (noam) with factor f has base = f * (width * warmup_steps)^-0.5.
    """
    if step < warmup_steps:
        return base * (step + 1) / warmup_steps
    return base * (max(1, warmup_steps) / (step + 1)) ** 0.5
