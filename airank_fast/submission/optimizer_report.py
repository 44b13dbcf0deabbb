"""The optimizer equivalence report as Markdown: equations, and the deviations that optim/equivalence.py measures."""

from __future__ import annotations

from collections.abc import Iterable

from airank_fast import __version__

OURS = "airank_fast"
_EQUATIONS = {
    "FusedSGD": """    d = g + weight_decay w
    b = momentum b + d                      (b = 0 before the first step)
    w = w - lr (d + momentum b)             with nesterov
    w = w - lr b                            without

That of `torch.optim.SGD`; the learning rate is outside the momentum.""",
    "FusedAdam": """    d = g + weight_decay w
    m = beta1 m + (1 - beta1) d             v = beta2 v + (1 - beta2) d^2
    w = w - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)

That of `torch.optim.Adam`; m and v are 0 before the first step.""",
    "FusedAdamW": """    m = beta1 m + (1 - beta1) g             v = beta2 v + (1 - beta2) g^2
    w = (1 - lr weight_decay) w - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)

That of `torch.optim.AdamW`; m and v are 0 before the first step.""",
    "FusedAdagrad": """    d = g + weight_decay w
    s = s + d^2                             (s = 0, or an initial value, before the first step)
    w = w - lr / (1 + (step - 1) lr_decay) d / (sqrt(s) + eps)

That of `torch.optim.Adagrad`.""",
    "FusedFTRL": """    n' = n + g^2                            (n = an initial value before the first step)
    z = z + g - (sqrt(n') - sqrt(n)) / lr w (z = 0 before the first step)
    w = (clamp(z, -l1, l1) - z) / ((sqrt(n') + beta) / lr + 2 l2)

That of Keras's `Ftrl` and of McMahan et al. 2013, algorithm 1, with lr_power -1/2 and l2_shrinkage 0.""",
    "FusedLARS": """    t = trust_coefficient |w| / (|g| + weight_decay |w| + eps)
    v = momentum v - lr t (g + weight_decay w)                      (v = 0 before the first step)
    w = w + v

That of MLPerf's closed division and of `apex`; the learning rate is inside the momentum, norms are those of a tensor.
t is 1 where |w| or |g| is 0, and in skipped groups, which batch norm and bias are, without weight decay.""",
    "FusedLAMB": """    g = g / max(1, |all g| / max_grad_norm)
    m = beta1 m + (1 - beta1) g             v = beta2 v + (1 - beta2) g^2
    u = (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps) + weight_decay w
    w = w - lr (|w| / |u|) u

That of `apex.optimizers.FusedLAMB`; |w| / |u| is 1 where either norm is 0. For tensors without weight decay it is 1 in
LAMB, and as written in NVLAMB (use_nvlamb).""",
}
_INTRODUCTION = """# Optimizer equivalence report

airank_fast {version}. MLPerf's closed division takes an optimizer that is not on its list of implementations if its
equation is stated and its equivalence shown. Below: the equation of each optimizer, and how far its weights are from
those of the equation in float64, over random problems; beside them the same equation written out in torch and run in
float32, and other implementations that were installed.

Every implementation starts from the same weights and is given the same gradients. With w the weights after the last
step and r those of the reference: *max* is the largest |w - r| of an element over the root mean square of its tensor
in r; *rms* is the root mean square of w - r over that of r; *of the way* is the same over the root mean square of r
less the first weights, which is the distance the optimizer has gone. float32 resolves 6e-8 of a weight. 16-bit
parameters are updated by their float32 masters, which are what is compared.

Measured with:
"""


def markdown(rows: Iterable[dict], environment: dict) -> str:
    """The report of the rows of `equivalence.measure()` and the facts of `equivalence.environment()`."""
    rows = list(rows)
    parts = [_INTRODUCTION.format(version=__version__)]
    parts.append("\n".join(f"- {name}: {value}" for name, value in environment.items()) + "\n")
    parts.append(_verdict(rows))
    for name, equation in _EQUATIONS.items():
        parts.append(f"\n## {name}\n\n{equation}\n")
        for optimizer in dict.fromkeys(row["optimizer"] for row in rows):
            if optimizer.split(",")[0] == name:
                parts.append(_table(optimizer, [row for row in rows if row["optimizer"] == optimizer]))
    return "\n".join(parts)


def largest_ratio(rows: Iterable[dict]) -> tuple[float, dict] | None:
    """(the largest ratio of our rms deviation to that of the equation in float32, our row)."""
    plain, ours = {}, {}
    for row in rows:
        key = tuple(row[name] for name in ("optimizer", "device", "dtype", "steps"))
        if row["implementation"] == OURS:
            ours[key] = row
        elif row["implementation"].startswith("the equation"):
            plain[key] = row
    ratios = [(ours[key]["rms"] / plain[key]["rms"], ours[key]) for key in ours if plain.get(key, {}).get("rms")]
    return max(ratios, key=lambda pair: pair[0], default=None)


def _verdict(rows: list[dict]) -> str:
    ours = [row for row in rows if row["implementation"] == OURS]
    worst = max(ours, key=lambda row: row["of_path"])
    unrounded = sum(row["unrounded"] for row in ours)
    lines = [
        "## Summary\n",
        f"- Largest deviation of the way gone: {worst['of_path']:.1e} ({_place(worst)}).",
        f"- 16-bit weights that differ from their rounded master: {unrounded}.",
    ]
    if found := largest_ratio(rows):
        lines.insert(
            2,
            f"- Largest ratio of our rms deviation to that of the same equation in torch's float32: "
            f"{found[0]:.2f}\n  ({_place(found[1])}).",
        )
    return "\n".join(lines) + "\n"


def _place(row: dict) -> str:
    return f"{row['optimizer']}, {row['device']}, {row['dtype']}, {row['steps']} steps"


def _table(title: str, rows: list[dict]) -> str:
    lines = [
        f"\n### {title}\n",
        "| device | dtype | steps | implementation | max | rms | of the way |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        figures = " | ".join(f"{row[name]:.1e}" for name in ("max", "rms", "of_path"))
        place = " | ".join(str(row[name]) for name in ("device", "dtype", "steps", "implementation"))
        lines.append(f"| {place} | {figures} |")
    return "\n".join(lines) + "\n"
