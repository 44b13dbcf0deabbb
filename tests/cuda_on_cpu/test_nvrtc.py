"""NVRTC 12 compiles the kernels for sm_70 (which nvcc has dropped) and sm_80: no spills, few registers.

What is compiled is what the launchers launch: the instantiations are read from the symbols of csrc/cuda/<op>.cu
compiled for the CPU, so none can be forgotten. Needs PyPI's nvidia-cuda-nvrtc-cu12 and nvidia-cuda-runtime-cu12, but
no driver and no GPU. That nvcc compiles them, for sm_90, is tested of some, with CMake's build, in test_cmake.py.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
from cuda_on_cpu import build

# The architectures, each with the types whose kernels are left out: bfloat16 before sm_80, where it is slow, and from
# there on float16, whose kernels are bfloat16's, and float64, which is there for checking.
ARCHITECTURES = {"sm_70": ("__nv_bfloat16",), "sm_80": ("double", "__half")}
# Registers per thread. 64 let half of a multiprocessor's threads be resident; twice that for float64, which is there
# for checking, not for speed. Kernels that may use more, with the reason:
CEILING = 64
CEILINGS = {
    "adaptive_update_kernel": 112,  # 8 elements in flight of four arrays and of their 16-bit copies, and ten scalars
    "bias_gelu_backward_kernel": 80,  # two packs of eight in flight, beside the bias and the sums of their columns
    "lamb_moments_kernel": 96,  # 8 elements in flight of four arrays, and of their 16-bit copies
    "lamb_update_kernel": 80,  # 8 elements in flight of three arrays
    "lars_norms_kernel": 72,  # 16 elements in flight of two arrays, and of their 16-bit copies
    "lars_update_kernel": 80,  # 8 elements in flight of three arrays, and the choice between two formulas
    "layer_norm_backward_kernel": 128,  # 8 elements of two rows, twice, their weights, and two sums for each
    "layer_norm_kernel": 120,  # 32 elements of a row, or both terms of each, in float32; 64 suffice for 16 bits
    "roi_align_backward_kernel": 72,  # two axes of a RoI, four sums, and the addresses of a tile
    "skip_gram_train_kernel": 120,  # 16 rows of a window in flight, or 32 dot products; a block is a part, of few
    "upsample_gradient_kernel": 80,  # nine logits, and the place of a pixel between them along both axes
    "table_update_kernel": 96,  # 4 numbers of the table, its copy and two states, and of 4 gradients in flight
    "sgd_kernel": 128,  # 16 elements in flight of up to three arrays and their copies; with 96 as many blocks fit
    # Of 8 channels: three to four numbers each, and 8 packs in flight, from one array or two.
    "batch_norm_moments_kernel": 80,
    "batch_norm_combine_kernel": 80,  # 8 parts in flight of three arrays, in double, at an offset by picture
    "batch_norm_sums_kernel": 80,
    "batch_norm_act_kernel": 96,
    "batch_norm_backward_kernel": 128,
    "instance_norm_sums_kernel": 128,
    "instance_norm_backward_kernel": 128,
    "instance_norm_plane_kernel": 72,  # 8 packs that stay, of one array or of two
    "instance_norm_plane_backward_kernel": 72,
}

OPS = [path.stem for path in build.launchers()]
WHEELS = Path(sysconfig.get_path("purelib"), "nvidia")
NVRTC = WHEELS / "cuda_nvrtc/lib/libnvrtc.so.12"
HEADERS = WHEELS / "cuda_runtime/include"

needs_host_compiler = pytest.mark.skipif(bool(build.missing()), reason=str(build.missing()))
needs_nvrtc = pytest.mark.skipif(
    not (NVRTC.exists() and HEADERS.exists()),
    reason="no NVRTC 12: PyPI's nvidia-cuda-nvrtc-cu12 and nvidia-cuda-runtime-cu12",
)


def kernel_names(op: str) -> set[str]:
    """The names of the __global__ functions in all that <op>.cu includes."""
    names = set()
    for path in build.inputs_of(build.compiled(build.ROOT / f"csrc/cuda/{op}.cu")):
        if path.is_relative_to(build.ROOT / "csrc"):
            code = re.sub(r"//.*", "", path.read_text())
            code = re.sub(r"__launch_bounds__\s*\([^()]*\)", "", code)
            names |= set(re.findall(r"__global__\s+void\s+(\w+)\s*\(", code))
    return names


def instantiations(op: str) -> list[str]:
    """The kernels that <op>.cu launches, as C++ expressions: "airank_fast::sgd_kernel<true, float, float, ...>"."""
    symbols = subprocess.run(
        ["nm", "-C", "--defined-only", str(build.compiled(build.ROOT / f"csrc/cuda/{op}.cu"))],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    functions = {without_parameters(line.split(maxsplit=2)[2]) for line in symbols if line.split()[1] in "TtWw"}
    names = kernel_names(op)
    return sorted(f for f in functions if f.split("<")[0].rpartition("::")[2] in names)


def without_parameters(function: str) -> str:
    function = function.replace("(anonymous namespace)::", "").removeprefix("void ")
    depth = 0
    for i, c in enumerate(function):
        depth += (c == "<") - (c == ">")
        if c == "(" and depth == 0:
            return function[:i]
    return function


def compiled_by_nvrtc(op: str, architecture: str) -> tuple[dict[str, str], str]:
    """For each instantiation its symbol in the object for `architecture`, and the compilers' output."""
    left_out = ARCHITECTURES[architecture]
    names = [name for name in instantiations(op) if not any(kind in name for kind in left_out)]
    symbols, log, _ = nvrtc(f'#include "cuda/{op}.cuh"\n', names, architecture, "--ptxas-options=-v")
    return symbols, log


def nvrtc(text: str, names: list[str], architecture: str, *options: str) -> tuple[dict[str, str], str, str]:
    """Name -> symbol of the kernels to instantiate, the log, and the PTX for compute_..."""
    nvrtc = ctypes.CDLL(str(NVRTC))
    program = ctypes.c_void_p()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"test", 0, None, None) == 0
    for name in names:
        assert nvrtc.nvrtcAddNameExpression(program, name.encode()) == 0
    options += (f"--gpu-architecture={architecture}", "--std=c++20", f"-I{build.ROOT / 'csrc'}", f"-I{HEADERS}")
    array = (ctypes.c_char_p * len(options))(*map(str.encode, options))
    status = nvrtc.nvrtcCompileProgram(program, len(options), array)

    def text_of(what: str) -> str:
        size = ctypes.c_size_t()
        getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(nvrtc, f"nvrtcGet{what}")(program, buffer)
        return buffer.value.decode()

    log = text_of("ProgramLog")
    assert status == 0, log
    symbols = {}
    for name in names:
        lowered = ctypes.c_char_p()
        assert nvrtc.nvrtcGetLoweredName(program, name.encode(), ctypes.byref(lowered)) == 0
        symbols[name] = lowered.value.decode()
    ptx = text_of("PTX") if architecture.startswith("compute_") else ""
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return symbols, log, ptx


@needs_host_compiler
@pytest.mark.parametrize("op", OPS)
def test_every_kernel_is_launched(op):
    launched = {function.split("<")[0].rpartition("::")[2] for function in instantiations(op)}
    assert launched == kernel_names(op)


@needs_host_compiler
@needs_nvrtc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("op", OPS)
def test_no_spills_and_few_registers(op, architecture, in_background):
    symbols, log = in_background(compiled_by_nvrtc, op=op, architecture=architecture)
    assert symbols
    for name, symbol in symbols.items():
        printed = log.partition(f"Compiling entry function '{symbol}'")[2].partition("Compiling entry function")[0]
        spills = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", printed)
        assert [int(number) for number in spills.groups()[1:]] == [0, 0], f"{name}: {spills[0]}"
        registers = int(re.search(r"Used (\d+) registers", printed)[1])
        kernel = name.split("<")[0].rpartition("::")[2]
        ceiling = CEILINGS.get(kernel, CEILING) * (2 if "double" in name else 1)
        assert registers <= ceiling, f"{name} uses {registers} registers of {ceiling} at most"


@needs_host_compiler
def test_no_ceiling_is_left_behind():
    assert CEILINGS.keys() <= {name for op in OPS for name in kernel_names(op)}


@needs_nvrtc
@pytest.mark.parametrize("pack", ["4, float", "2, double", "8, __half", "8, __nv_bfloat16"])
def test_a_pack_moves_in_one_instruction(pack):
    """A kernel that stores nothing but packs, and loads its bias besides."""
    name = f"airank_fast::bias_gelu_kernel<true, {pack}>"
    _, _, ptx = nvrtc('#include "cuda/bias_gelu.cuh"\n', [name], "compute_90")
    moves = re.findall(r"\b(?:ld|st)\.global\S*", ptx)
    loads, stores = ([move for move in moves if move.startswith(kind)] for kind in ("ld", "st"))
    assert stores
    assert all(".v4." in store for store in stores), stores
    assert sum(".v4." in load for load in loads) >= len(stores), loads
