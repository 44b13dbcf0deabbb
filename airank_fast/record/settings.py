"""`--set NAME=VALUE`: facts of a run that its log does not state."""

from __future__ import annotations

import json
from collections.abc import Iterable
from fnmatch import fnmatch

from airank_fast.errors import UserError
from airank_fast.numeric import is_number
from airank_fast.record.foreign.complete import MOMENTS, check_config, with_whole_counts

# Fields of run_config that a user may state; options, recipe and command come from the log alone.
FIELDS = ("benchmark", "unit", "target", "seed", "precision", "world_size", "global_batch_size")
FIELDS += ("gradient_accumulation_steps", "train_samples", "eval_samples", "samples_per_epoch")
FIELDS += ("warmup_epochs_excluded",)
SYSTEM = ("operating_system", "number_of_nodes", "accelerator_name")
SUBMISSION = tuple(f"submission_{name}" for name in ("org", "platform", "division", "status"))
# MLPerf's names of hyper-parameters, closed division of the 4.0 round.
_POLYNOMIAL = ("base_learning_rate", "end_learning_rate", "learning_rate_decay_poly_power", "learning_rate_decay_steps")
_POLYNOMIAL += ("weight_decay", "momentum")
SGD = (*(f"sgd_opt_{name}" for name in _POLYNOMIAL), "model_bn_span", "opt_learning_rate_warmup_epochs")
LARS = (*(f"lars_opt_{name}" for name in _POLYNOMIAL), "lars_opt_learning_rate_warmup_epochs", "lars_epsilon")
LAMB = ("opt_base_learning_rate", "opt_lamb_epsilon", "opt_epsilon", "opt_learning_rate_training_steps")
LAMB += ("opt_learning_rate_warmup_steps", "num_warmup_steps", "start_warmup_step", "opt_lamb_beta_1")
LAMB += ("opt_lamb_beta_2", "opt_lamb_weight_decay_rate")
HYPER_PARAMETERS = ("opt_name", *SGD, *LARS, *LAMB)
OF_ONE_OPTIMIZER = {"bert": LAMB}  # tasks of which MLPerf has one optimizer, so that logs need not name it
NAMES = (*FIELDS, *SYSTEM, *SUBMISSION, *MOMENTS, *HYPER_PARAMETERS)


def parse_settings(settings: Iterable[str], path: str = "") -> dict:
    """Fields of run_config, MOMENTS and `system`, from NAME=VALUE; `PATTERN:NAME=VALUE` is for paths that match only.

    A value is JSON, else text; `none` is no value (no target). UserError for any other name.
    """
    found: dict = {}
    for setting in settings:
        left, equals, text = setting.partition("=")
        pattern, colon, name = left.rpartition(":")
        name = name.strip()
        if not equals or name not in NAMES:
            raise UserError(f"--set: must be NAME=VALUE with a NAME of {', '.join(NAMES)}, got {setting[:60]}")
        if colon and not fnmatch(path, pattern):
            continue
        value = _value(text.strip())
        _check(name, value)
        if name in SUBMISSION:
            found.setdefault("submission", {})[name.removeprefix("submission_")] = value
        elif name in SYSTEM:
            found.setdefault("system", {})[name] = value
        elif name in HYPER_PARAMETERS:
            found.setdefault("reported", {})[name] = value
        else:
            found[name] = value
    found = with_whole_counts(found)
    check_config(found)
    return found


def _value(text: str):
    try:
        return None if text == "none" else json.loads(text)
    except (ValueError, RecursionError):
        return text


def _check(name: str, value) -> None:
    if name in ("init_s", "eval_s") and not (is_number(value) and 0 <= value < 1e9):
        raise UserError(f"--set {name}: must be seconds, got {value}")
    if name == "cache_clear" and not isinstance(value, bool):
        raise UserError(f"--set {name}: must be true or false, got {value}")
    if name == "seed" and type(value) is not int:
        raise UserError(f"--set {name}: must be a whole number, got {value}")
    if isinstance(value, (dict, list)) or (isinstance(value, float) and not is_number(value)):
        raise UserError(f"--set {name}: must be a number, a word, true or false, got {value}")
