"""The description of the system: from given fields, the run and this machine; missing fields are named."""

import pytest
from submission import synthetic

from airank_fast.errors import UserError
from airank_fast.rules.trees import MLPERF_FIELDS
from airank_fast.submission.system import (
    airank_description,
    facts_of_run,
    given_fields,
    is_same_machine,
    mlperf_description,
)

CONFIG = {"submission": {"org": "Org", "platform": "P", "division": "closed", "status": "cloud"}}
RUN = facts_of_run(synthetic.SYSTEM, CONFIG)


def test_given_fields_go_before_the_run_and_the_run_before_this_machine():
    here = {"host_processor_frequency": "1 GHz", "host_networking": "from here"}
    fields = mlperf_description({**synthetic.ANSWERS, "host_memory_capacity": "2 TB"}, RUN, here, None)
    assert fields["host_memory_capacity"] == "2 TB"
    assert fields["host_processor_frequency"] == "2.25GHz"
    assert fields["host_networking"] == "from here"
    assert fields["host_networking_topology"] == "N/A (one node)"
    assert (fields["status"], fields["submitter"], fields["division"]) == ("Available cloud", "Org", "closed")


def test_all_missing_fields_are_named_at_once():
    with pytest.raises(UserError) as refused:
        mlperf_description({}, {}, {}, None)
    missing = set(MLPERF_FIELDS) - {"hw_notes", "sw_notes"}
    assert all(name in str(refused.value) for name in missing)
    assert f"{len(missing)} fields" in str(refused.value)
    assert "--set NAME=VALUE" in str(refused.value)


def test_unknown_is_as_good_as_blank():
    run = facts_of_run({**synthetic.SYSTEM, "host_storage_type": "unknown"}, {"submission": {"org": "unknown"}})
    with pytest.raises(UserError, match=r"got no submitter, division, status, host_storage_type"):
        mlperf_description(synthetic.ANSWERS, {**run, "system_name": "x"}, {}, None)
    with pytest.raises(UserError, match=r"got no host_storage_type"):
        airank_description({}, {**RUN, "host_storage_type": "unknown"}, {})


def test_a_run_without_accelerators_has_nothing_to_say_of_them():
    system = {**synthetic.SYSTEM, "accelerators_per_node": 0, "accelerator_name": "Synthetic CPU", "machine": {}}
    fields = mlperf_description(
        {
            name: "x"
            for name in MLPERF_FIELDS
            if not name.startswith(("acc", "n", "status", "div", "host_processor_c", "host_processors"))
        }
        | {"host_processor_core_count": "2", "host_processor_caches": "x"},
        facts_of_run(system, CONFIG),
        {},
        None,
    )
    accelerator = {name: value for name, value in fields.items() if name.startswith("accelerator_")}
    assert set(accelerator.values()) == {"N/A (no accelerator)"}
    assert fields["accelerators_per_node"] == "0"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("division", "ajar", "closed or open"),
        ("status", "sold", "one of Available on-premise"),
        ("host_processor_core_count", "many", "a whole number"),
    ],
)
def test_a_value_that_cannot_be_is_refused(name, value, message):
    with pytest.raises(UserError, match=message):
        mlperf_description({**synthetic.ANSWERS, name: value}, RUN, {}, None)


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_fields_come_from_a_file_and_options_go_before(tmp_path, suffix):
    pytest.importorskip("tomllib")
    file = tmp_path / f"system{suffix}"
    texts = {
        ".toml": 'cooling = "water"\nnumber_of_nodes = 1\n"accelerator_on-chip_memories" = "x"\n',
        ".json": '{"cooling": "water", "number_of_nodes": 1, "accelerator_on-chip_memories": "x"}',
    }
    file.write_text(texts[suffix])
    given = given_fields(["cooling=air=cold"], file)
    assert given == {"cooling": "air=cold", "number_of_nodes": "1", "accelerator_on-chip_memories": "x"}


@pytest.mark.parametrize("text", ["cooling = ", "[cooling]\nx = 1", "", "\udcff", "cooling = 'x'\nsecret = 'y'"])
def test_a_file_that_holds_no_fields_is_refused(tmp_path, text):
    pytest.importorskip("tomllib")
    file = tmp_path / "system.toml"
    if text:
        file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"^--s(ystem|et)"):
        given_fields([], file)


def test_this_machine_is_taken_only_for_runs_that_match_it():
    here = {
        name: RUN[name]
        for name in (
            "host_processor_model_name",
            "host_processor_vcpu_count",
            "host_memory_capacity",
            "accelerator_model_name",
        )
    }
    assert is_same_machine(RUN, here)
    for name in here:
        assert not is_same_machine(RUN, {**here, name: "another"})
    assert not is_same_machine({}, here)  # a log that says nothing of its machine could be from anywhere
