"""Made-up MLPerf logs that the official checker accepts, and runs read from them."""

from pathlib import Path

from airank_fast.record.foreign.read import Run, read_run
from airank_fast.record.formats.mlperf import MLPerfLog

SGD = {
    "opt_name": "sgd",
    "sgd_opt_base_learning_rate": 1.632,
    "sgd_opt_end_learning_rate": 1e-4,
    "sgd_opt_learning_rate_decay_poly_power": 2,
    "sgd_opt_learning_rate_decay_steps": 30000,
    "sgd_opt_weight_decay": 1e-4,
    "sgd_opt_momentum": 0.9,
    "model_bn_span": 204,
    "opt_learning_rate_warmup_epochs": 2,
}
LAMB = {
    "opt_base_learning_rate": 4e-4,
    "opt_lamb_epsilon": 1e-6,
    "opt_epsilon": 1e-6,
    "opt_learning_rate_training_steps": 7100,
    "opt_learning_rate_warmup_steps": 0,
    "num_warmup_steps": 0,
    "start_warmup_step": 0,
    "opt_lamb_beta_1": 0.9,
    "opt_lamb_beta_2": 0.999,
    "opt_lamb_weight_decay_rate": 0.01,
}
SUBMISSION = {"org": "Example", "platform": "example-8", "division": "closed", "status": "onprem"}
SIZES = {
    "resnet50": {"global_batch_size": 1632, "train_samples": 1281167, "eval_samples": 50000},
    "bert_large": {"global_batch_size": 448, "train_samples": 156725653, "eval_samples": 10000},
}


def events(benchmark, number=0, minutes=20.0, converged_at=36, accuracy=None):
    """A run that begins `number` hours after the first; `accuracy` below the target: it does not converge."""
    sizes, is_bert = SIZES[benchmark], benchmark.startswith("bert")
    accuracy = accuracy if accuracy is not None else (0.7212 if is_bert else 0.7593)
    start = 1_700_000_000 + 3600 * number
    end = start + minutes * 60
    samples = converged_at if is_bert else converged_at * sizes["train_samples"]
    block = {"step": 0, "samples": 0} | ({} if is_bert else {"first_epoch": 1, "epoch_count": converged_at})
    where = {"step": 1000, "samples": samples, "epoch": samples // sizes["train_samples"] if is_bert else converged_at}
    reached = accuracy >= (0.72 if is_bert else 0.759)
    config = {
        "benchmark": benchmark,
        "seed": 1000 + number,
        "gradient_accumulation_steps": 1,
        "submission": SUBMISSION,
        "reported": LAMB if is_bert else SGD,
        "target": 0.72 if is_bert else 0.759,
        **sizes,
    }
    story = [
        (start - 20, "run_config", config),
        (start - 20, "cache_clear", {"value": True}),
        (start - 20, "init_start", {}),
        (start, "init_stop", {}),
        (start, "run_start", {}),
        (start, "block_start", block),
        (end - 2, "block_stop", {"step": 1000, "samples": samples}),
        (end - 2, "eval_start", where),
        (end, "eval_stop", {**where, "accuracy": accuracy, "correct": 1, "counted": 1}),
        (end, "run_stop", {"status": "success" if reached else "aborted", "reason": "target" if reached else "epochs"}),
    ]
    return [{"t": t, "kind": kind, **fields} for t, kind, fields in story]


def write(path: Path, *args, **kwargs) -> Path:
    """The MLPerf log of `events(...)`."""
    log = MLPerfLog()
    lines = [line for event in events(*args, **kwargs) for line in log.feed(event)]
    path.write_text("".join(line + "\n" for line in lines))
    return path


class Runs:
    """Writes logs into one folder, as a submission has them."""

    def __init__(self, folder: Path):
        self.folder = folder

    def write(self, benchmark, minutes, converged_at=None, failed=()):
        """One log for each of `minutes`; those numbered in `failed` stay below the target."""
        converged_at = converged_at or ([36] if benchmark == "resnet50" else [2_500_000]) * len(minutes)
        low = {True: 0.70, False: None}
        return [
            write(self.folder / f"result_{n}.txt", benchmark, n, each, converged_at[n], low[n in failed])
            for n, each in enumerate(minutes)
        ]

    def read(self, *args, **kwargs) -> list[Run]:
        """The runs of `write(...)`."""
        return [read_run(path) for path in self.write(*args, **kwargs)]
