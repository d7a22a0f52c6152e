"""Every choice that depends on the hardware: where tensors live, their memory format, precision, memory used."""
import ctypes
import os
import re
import sys

import torch

from runtime import job, memory
from runtime.errors import InputError
from runtime.fast_layers import quicken, quicken_on_gpu
from runtime.ranks import Ranks

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4    # of <malloc.h>
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}    # spatial axes -> memory format
# device, spatial axes -> slices or windows per pass of inference, and processes that draw patches in advance:
# one core draws a step's slices in 24 ms and its volumes in 18, and an H100 is expected (docs/speed.md's model, not a
# measurement) to compute such steps in 14 and 70 ms
AT_ONCE = {"cpu": {2: 4, 3: 2}, "cuda": {2: 16, 3: 4}}
WORKERS = {"cpu": {2: 2, 3: 2}, "cuda": {2: 8, 3: 4}}


class Device:
    """name: 'auto' (CUDA if there is one), 'cpu', 'cuda', 'cuda:1', ...; ndim: spatial axes of the networks.

    amp: bfloat16 autocast; deterministic: only kernels that repeat bit for bit. Of several processes, each takes the
    GPU of its local rank, and here they meet. `ahead`: the host may run ahead of this device, and does not wait for a
    step's numbers before it starts the next one.
    """

    def __init__(self, name="auto", ndim=3, amp=False, deterministic=False):
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
            raise InputError(f"--device {name}: unknown, choose auto, cpu, cuda or cuda:1, cuda:2, ...")
        if name.startswith("cuda") and not torch.cuda.is_available():
            raise InputError(f"--device {name}: this PyTorch sees no GPU; use --device cpu, or install a CUDA build")
        ranks = Ranks()
        if name.startswith("cuda") and ranks.world > 1:
            if name != "cuda" or ranks.local_world > torch.cuda.device_count():
                raise InputError(f"--device {name}: {ranks.local_world} processes take a GPU each, and this PyTorch "
                                 f"sees {torch.cuda.device_count()}; start at most as many, with --device cuda")
            name = f"cuda:{ranks.local}"
        if amp and ndim == 3 and name == "cpu":
            raise InputError("--amp True --device cpu: gradients of 3D convolutions in bfloat16 are wrong on a CPU at "
                             "some sizes, NaN among them (oneDNN); leave --amp out, or use a GPU")
        if amp and name == "cpu" and not _has_bfloat16():
            ranks.say("--amp True --device cpu: this CPU has no bfloat16 arithmetic, so steps take 24 to 60 times "
                      "longer than without --amp", to=sys.stderr)
        self.torch, self.amp, self.ndim = torch.device("cuda:0" if name == "cuda" else name), amp, ndim
        if self.torch.index is not None and self.torch.index >= torch.cuda.device_count():
            raise InputError(f"--device {name}: this PyTorch sees {torch.cuda.device_count()} GPUs, counted from 0")
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")     # cuBLAS repeats bit for bit only so
        self.format = CHANNELS_LAST[ndim]
        self.cuda = self.ahead = self.torch.type == "cuda"
        if deterministic != torch.are_deterministic_algorithms_enabled():     # the call alone takes seconds
            torch.use_deterministic_algorithms(deterministic, warn_only=True)
        if self.cuda:
            torch.backends.cudnn.benchmark = not deterministic
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
            torch.cuda.set_device(self.torch)       # starts CUDA, without which there are no statistics to reset
            torch.cuda.reset_peak_memory_stats(self.torch)
        else:
            _keep_freed_memory(ndim)
        ranks.start(self.torch)

    def place(self, module):
        """Move a module here, in the memory format and with the layers that are fastest here."""
        module = module.to(self.torch, memory_format=self.format)
        return quicken_on_gpu(module) if self.cuda else quicken(module)

    @staticmethod
    def reserve_gradients(parameters):
        """Gradients of zero, now: kept from step to step, they leave no gaps between the activations' memory."""
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)

    def image(self, x):
        """Images (B, channels, *S) from the loader, without waiting for the copy."""
        if x is None:
            return None
        return x.to(self.torch, non_blocking=True).contiguous(memory_format=self.format)

    def label(self, y):
        """Label maps (B, *S) uint8 from the loader -> int64."""
        return y.to(self.torch, non_blocking=True).long()

    def workers(self, wanted=None):
        """Processes that draw patches in advance: `wanted`, or as many as keep the device busy and the job may use."""
        share = job.cpus() // Ranks().local_world
        return min(WORKERS[self.torch.type][self.ndim], max(1, share)) if wanted is None else wanted

    def autocast(self):
        return torch.autocast(self.torch.type, torch.bfloat16, enabled=self.amp)

    def peak_memory(self):
        """GiB: allocated at most on the GPU, or the process's largest resident size on a CPU."""
        if self.cuda:
            return torch.cuda.max_memory_allocated(self.torch) / 2 ** 30
        return memory.peak()

    def versions(self):
        """{library: version} of what computes on a GPU beside PyTorch; empty on a CPU."""
        return {"CUDA": torch.version.cuda, "cuDNN": torch.backends.cudnn.version()} if self.cuda else {}

    def __str__(self):
        threads = torch.get_num_threads()
        name = torch.cuda.get_device_name(self.torch) if self.cuda else (
            f"CPU with {torch.backends.cpu.get_cpu_capability()}, {threads} thread{'s' * (threads > 1)}")
        world = Ranks().world
        return name if world == 1 else f"{world} processes, each on {name}"


def _has_bfloat16():
    """Whether the CPU computes products of bfloat16 itself."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def at_least_float32(x):
    """bfloat16 and float16 become float32; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def fetch(tensor):
    """Start a tensor's copy to the host -> function that waits for it and returns the copy, on the CPU.

    What a GPU is given between the two calls runs on; a tensor on a CPU is returned itself.
    """
    if not tensor.is_cuda:
        return lambda: tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)       # pageable memory would be waited for
    host.copy_(tensor, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def wait():
        copied.synchronize()
        return host
    return wait


def room_for(size, device):
    """`device`, or the CPU if it is a GPU with less than twice `size` bytes free."""
    if device.type == "cuda" and torch.cuda.mem_get_info(device)[0] < 2 * size:
        return torch.device("cpu")
    return device


def _keep_freed_memory(ndim):
    """Let glibc reuse freed memory: handed back to the system, a layer's output costs its page faults again.

    For 2D, glibc's mmap threshold is raised to its maximum, 32 MiB; for 3D, mmap is disabled, which costs more memory.
    """
    if mallopt := getattr(ctypes.pythonapi, "mallopt", None):       # not on macOS and Windows, not with musl
        mallopt(M_TRIM_THRESHOLD, -1)
        mallopt(*((M_MMAP_MAX, 0) if ndim == 3 else (M_MMAP_THRESHOLD, 32 << 20)))
