"""--set: names that exist, values of the right type, for all paths or some."""

import pytest

from airank_fast.errors import UserError
from airank_fast.record.settings import parse_settings


def test_settings():
    settings = [
        "target=0.759",
        "unit=images",
        "submission_org=A B",
        "opt_name=sgd",
        "sgd_opt_momentum=0.9",
        "operating_system=Windows 10",
        "cache_clear=true",
        "init_s=3",
        "*x8.log:world_size=8",
        "*x1.log:world_size=1",
    ]
    assert parse_settings(settings, "logs/GPUx8.log") == {
        "target": 0.759,
        "unit": "images",
        "submission": {"org": "A B"},
        "cache_clear": True,
        "init_s": 3,
        "reported": {"opt_name": "sgd", "sgd_opt_momentum": 0.9},
        "system": {"operating_system": "Windows 10"},
        "world_size": 8,
    }
    assert parse_settings(["target=none"]) == {"target": None}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("target", "NAME=VALUE with a NAME of"),
        ("made_up=1", "NAME=VALUE with a NAME of"),
        ("target=x", "target: must be a number, got 'x'"),
        ("target=NaN", "--set target: must be a number, a word, true or false, got nan"),
        ("world_size=0.5", "world_size: must be a whole number above 0, got 0.5"),
        ("seed=x", "--set seed: must be a whole number, got x"),
        ("cache_clear=1", "--set cache_clear: must be true or false, got 1"),
        ("eval_s=-1", "--set eval_s: must be seconds, got -1"),
        ("opt_name=[1]", "--set opt_name: must be a number, a word, true or false"),
        ("benchmark=3", "benchmark: must be a word, got 3"),
        ("target=" + "[" * 5000, "target: must be a number"),
    ],
)
def test_what_makes_no_sense(setting, message):
    with pytest.raises(UserError) as error:
        parse_settings([setting])
    assert message in str(error.value)
