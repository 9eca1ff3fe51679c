"""What this machine is, for run records and for choices that depend on it; memory at addresses that do not.

Which of torch's two libraries multiplies frozen fp32 weights on a CPU is chosen here, once for all
(`onednn_products`), and recorded with every figure (`hardware`).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anprompt.errors import choices

if TYPE_CHECKING:  # torch is imported where it is used: tables and reports need only the words
    import torch
    from torch import Tensor, nn

ALIGNMENT = 64  # bytes: a cache line, the widest vector, and what torch's own allocator gives

# Which library multiplies frozen fp32 weights on a CPU: "auto" (the default), "on" (oneDNN) or "off" (torch's own).
ONEDNN = "ANPROMPT_ONEDNN"
_ONEDNN_CHOICES = ("auto", "on", "off")


def hardware(device: str | torch.device = "cpu") -> dict[str, Any]:
    """Processor, cores this process may use, torch threads, and what multiplies frozen weights.

    That is the accelerator where one is used ("gpu"), else a library and the vector units that torch
    found ("products", like "oneDNN, AVX512"; see `products`).
    """
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found: dict[str, Any] = {"cpu": cpu_model(), "cores": cores, "threads": torch.get_num_threads()}
    if torch.device(device).type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    else:
        found["products"] = products()
    return found


def in_words(found: Mapping[str, Any]) -> str:
    """`hardware` in one line, for tables, reports and benchmarks; old records don't name the products."""
    text = f"{found.get('cpu')}, {found.get('cores')} cores, {found.get('threads')} torch threads"
    if "products" in found:
        text += f", products by {found['products']}"
    return f"{found['gpu']}; {text}" if "gpu" in found else text


def products() -> str:
    """The library that multiplies frozen fp32 weights on the CPU, and the vector units as torch reads them.

    "oneDNN, AVX512", "MKL, AVX2", ...: speeds of different libraries are not to be compared.
    """
    import torch

    if onednn_products():
        library = "oneDNN"
    elif torch.backends.mkl.is_available():
        library = "MKL"
    else:
        known = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
        library = known.group(1) if known else "torch's own library"
    return f"{library}, {torch.backends.cpu.get_cpu_capability()}"


def onednn_products() -> bool:
    """Whether frozen linear layers multiply through oneDNN instead of the library torch takes by itself.

    The environment variable `ANPROMPT_ONEDNN` says "on" or "off"; "auto" takes oneDNN where it is there and
    the processor is one on which MKL leaves half of the vector units unused (AMD's with AVX-512).

    Raises:
        UserError: the variable holds something else.
    """
    import torch

    wanted = os.environ.get(ONEDNN, "").strip().lower() or "auto"
    if wanted not in _ONEDNN_CHOICES:
        raise choices(f"value of the environment variable {ONEDNN}:", wanted, _ONEDNN_CHOICES)
    if wanted == "off" or not torch.backends.mkldnn.is_available():
        return False
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return wanted == "on" or (wide and "AMD" in cpu_model())


def aligned(tensor: Tensor) -> Tensor:
    """The tensor itself where it begins at a multiple of `ALIGNMENT` bytes, else a copy that does.

    Tensors mapped from a file lie wherever its header ends, a slice wherever it begins; their copies begin
    at such a multiple. Matrix products round differently by where their factors lie, so without this a
    model and its copy would differ in the last bit.
    """
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()


def align(module: nn.Module) -> None:
    """`aligned` for every parameter and buffer, in place and one by one, so that memory holds one of them twice."""
    for tensor in itertools.chain(module.parameters(), module.buffers()):
        tensor.data = aligned(tensor.data)


@functools.cache
def cpu_model() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:  # no Linux
        pass
    return platform.processor() or platform.machine()


def reset_peak_memory() -> None:
    """Start `peak_memory_mb` anew from what is resident now (Linux; elsewhere it keeps counting)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_mb() -> float:
    """Largest resident size of this process in MB since its start, or since `reset_peak_memory`."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    except OSError:  # no Linux
        pass
    try:
        import resource
    except ImportError:  # pragma: no cover - Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
