"""What is read of a machine, from files and program output of machines that are not this one."""

import re

import pytest

from airank_fast.record import machine, source

CPUINFO = """processor	: {n}
model name	: Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz
cpu MHz		: 1{n}00.000
physical id	: {socket}
cpu cores	: 2
flags		: fpu {flag}
power management:

"""
NVIDIA_SMI = """NVIDIA A100-SXM4-40GB, 40960, 1410, 4, 16, 535.104.05
NVIDIA A100-SXM4-40GB, 40960, 1410, 4, 16, 535.104.05
"""
LSBLK = """{"blockdevices": [
 {"name": "zram0", "type": "disk", "size": 4294967296, "rota": false, "tran": null},
 {"name": "nvme0n1", "type": "disk", "size": 1073741824, "rota": false, "tran": "nvme"},
 {"name": "sda", "type": "disk", "size": "2147483648", "rota": "1", "tran": "sata"},
 {"name": "sdb", "type": "disk", "size": 0, "rota": true, "tran": "usb"},
 {"name": "loop0", "type": "loop", "size": 5, "rota": false, "tran": null}]}"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A root directory of two processors with two cores and four threads each."""
    (tmp_path / "proc").mkdir()
    text = "".join(CPUINFO.format(n=n, socket=n // 4, flag="avx") for n in range(8))
    (tmp_path / "proc/cpuinfo").write_text(text)
    (tmp_path / "proc/meminfo").write_text("MemTotal:       67108864 kB\nMemFree: 1 kB\n")
    for index, (level, kind, size) in enumerate([(1, "Data", "32K"), (1, "Instruction", "32K"), (2, "Unified", "1M")]):
        cache = tmp_path / f"sys/devices/system/cpu/cpu0/cache/index{index}"
        cache.mkdir(parents=True)
        for name, value in (("level", level), ("type", kind), ("size", size)):
            (cache / name).write_text(f"{value}\n")
    outputs = {"lsblk": LSBLK, "nvidia-smi": NVIDIA_SMI}
    monkeypatch.setattr(machine, "_output", lambda program, *_: outputs[program])
    return tmp_path


def test_processor_memory_disks_and_gpus(root):
    facts = machine.hardware(root)
    del facts["operating_system"]
    assert facts == {
        "host_processor_model_name": "Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz",
        "host_processors_per_node": 2,
        "host_processor_core_count": 2,
        "host_processor_vcpu_count": 8,
        "host_processor_frequency": "2.40GHz",
        "host_processor_caches": "L1d 32K, L1i 32K, L2 1M",
        "host_memory_capacity": "64.0 GiB",
        "host_storage_type": "HDD + NVMe",
        "host_storage_capacity": "3.0 GiB",
        "accelerator_model_name": "NVIDIA A100-SXM4-40GB",
        "accelerators_per_node": 2,
        "accelerator_memory_capacity": "40.0 GiB",
        "accelerator_frequency": "1410 MHz (maximum)",
        "accelerator_host_interconnect": "PCIe Gen4 x16",
        "driver": "535.104.05",
        "container": "none",
    }


@pytest.mark.parametrize(
    ("mark", "kind"),
    [(".dockerenv", "Docker"), ("run/.containerenv", "Podman"), ("proc/1/cgroup", "a container")],
)
def test_a_container_is_seen(root, mark, kind):
    (root / mark).parent.mkdir(parents=True, exist_ok=True)
    (root / mark).write_text("12:cpu:/kubepods/pod1\n")
    assert machine.hardware(root)["container"] == kind


def test_a_guest_knows_that_it_is_one(root):
    (root / "proc/cpuinfo").write_text(CPUINFO.format(n=0, socket=0, flag="hypervisor avx"))
    assert machine.hardware(root)["virtualization"] == "virtual machine"


@pytest.mark.parametrize("text", ["", "garbage", "No devices were found\n", "{}", '{"blockdevices": 3}', "a,,,,N/A,\n"])
def test_what_cannot_be_read_is_left_out(tmp_path, monkeypatch, text):
    monkeypatch.setattr(machine, "_output", lambda *_: text)
    facts = machine.hardware(tmp_path)
    assert "host_memory_capacity" not in facts
    assert "host_storage_type" not in facts
    assert all(value not in ("", None) for value in facts.values())


def test_this_machine_says_nothing_of_its_name():
    import socket

    facts = machine.facts()
    assert {"host_processor_model_name", "operating_system", "framework"} <= facts.keys()
    host = socket.gethostname()
    assert not re.search(rf"\b{re.escape(host)}\b", str(facts))


def test_the_source_is_that_of_a_commit_or_of_the_files_as_they_lie():
    identity = source.identity()
    names = {name for name, _ in source.files()}
    assert {"airank_fast/train.py", "airank_fast/record/source.py"} <= names
    if "commit" in identity:
        assert source.has_commit(identity["commit"])
        contents = dict(source.files_of(identity["commit"]))
        assert contents["airank_fast/__init__.py"].startswith(b'"""airank_fast')
        assert "csrc/module.cpp" in contents
    assert not source.has_commit("0" * 40)
    assert not source.has_commit("HEAD; true")


def test_an_installed_package_is_its_own_source(monkeypatch, tmp_path):
    package = tmp_path / "site-packages" / "airank_fast"
    (package / "__pycache__").mkdir(parents=True)
    for name in ("a.py", "_C.abi3.so", "__pycache__/a.pyc", "digits.npz"):
        (package / name).write_text("x")
    monkeypatch.setattr(source, "PACKAGE", package)
    assert [name for name, _ in source.files()] == ["airank_fast/a.py", "airank_fast/digits.npz"]
    assert set(source.identity()) == {"name", "version"}
