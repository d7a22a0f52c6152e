"""What gpu_day.py checks: the path on a device against the same computation elsewhere.

A check is a generator of Findings; it takes the name of a device ('cuda', 'cpu', ...), whether to be quick, and a
folder for files. tests/test_gpu_day.py runs them, too: on a CPU always, on a GPU where there is one.
"""
import contextlib
import copy
import io
import itertools
import os
import re
import signal
import warnings
from pathlib import Path
from typing import NamedTuple

from runtime.script import reported

import numpy as np
import torch
import torch.distributed as dist
from torch import multiprocessing

from benchmarks import gpu_runs
from benchmarks.gpu_runs import distance
from benchmarks.workloads import PATCHES, SETS
from dataloaders.components import largest_component, reduced
from evaluation.inference import sliding_window
from methods import registry
from networks.two_view import build_subnet
from runtime.device import Device
from runtime.errors import InputError
from runtime.fast_layers import quicken_on_gpu
from runtime.files import load_tensors
from runtime.ranks import Ranks
from runtime.workers import end_with_parent
from training import fit

# most that loss and running statistics may be off, and a gradient's cosine short of 1
TOLERANCES = {"float64": (1e-9, 1e-12), "float32": (1e-4, 1e-4), "TF32": (1e-2, 1e-2), "bfloat16": (5e-2, 1e-2)}
WORLD = 2               # processes that share the one GPU


class Finding(NamedTuple):
    """One finding. `passed` is None where the device cannot be asked."""

    item: str
    value: str
    tolerance: str
    passed: bool | None


def within(item, value, most):
    return Finding(item, f"{value:.2e}", f"≤ {most:.0e}", value <= most)


def holds(item, value, expected):
    return Finding(item, str(value), str(expected), value == expected)


# ---- the checks --------------------------------------------------------------------------------------------------


def devices(device, quick, folder):
    """Every way to name it is understood."""
    index = {"cpu": ["cpu"]}.get(device, ["cuda", "cuda:0", device])
    for name in dict.fromkeys(["auto", *index]):
        own = Device(name)
        total = torch.ones(8, device=own.torch).sum().item()
        yield Finding(f"Device({name!r})", str(own), "a sum of ones", total == 8 and own.peak_memory() >= 0)


def agreement(device, quick, folder):
    """A step of self-training without dropout against the plain recipe in float64 on the CPU; pseudo-labels fixed."""
    for name in ("LA", "ACDC") if quick else SETS:
        # smaller patches leave few voxels to the deepest batch norms, and bfloat16 loses its way among them
        edges, scans = ((32, 32, 32), 2) if quick and name == "LA" else (PATCHES[name], 4)
        larger = {"patch_size": edges, "labeled_batch": scans, "unlabeled_batch": scans}
        recipe = gpu_runs.recipe_of(name, True, **larger)
        plain = gpu_runs.exact(recipe)
        labels = []
        make = plain.pseudo_labels
        plain.pseudo_labels = lambda x, make=make, labels=labels: labels.append(make(x)()) or (lambda: labels[0])
        expected = gpu_runs.step(plain, gpu_runs.batch_of(name, recipe))
        for precision in TOLERANCES:
            try:
                own = Device(device, len(recipe.patch_size), amp=precision == "bfloat16")
            except InputError:      # bfloat16 in 3D on a CPU
                yield Finding(f"{name} in {precision}", "refused", "", None)
                continue
            if precision == "TF32" and not own.cuda:
                continue
            with tensor_cores(precision == "TF32"):
                yield from compared(recipe, name, precision, own, labels[0], expected)


def compared(recipe, name, precision, own, labels, expected):
    """The Findings of one data set and precision; expected: what `step` gave in float64."""
    method, batch = own.place(gpu_runs.exact(recipe)), gpu_runs.batch_of(name, recipe)
    if precision != "float64":
        method = method.float()
    kind = next(method.parameters()).dtype
    batch = batch._replace(**{key: own.image(getattr(batch, key).to(kind)) for key in ("x_l", "x_u")},
                           y_l=batch.y_l.to(own.torch))

    def pseudo_labels(x):
        with torch.no_grad():       # the pass counts: it updates running statistics
            method.networks(x)
        return lambda: labels.to(own.torch)
    method.pseudo_labels = pseudo_labels
    found, (most, turned) = gpu_runs.step(method, batch, own), TOLERANCES[precision]
    for key in ("loss", "running statistics"):
        yield within(f"{name} in {precision}: {key}", distance(found[key], expected[key]), most)
    cosine = torch.cosine_similarity(found["gradients"], expected["gradients"], dim=0).item()
    yield within(f"{name} in {precision}: gradients, 1 - cosine", 1 - cosine, turned)


@contextlib.contextmanager
def tensor_cores(allowed):
    """TF32, or full float32, within."""
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = allowed
        yield
    finally:
        for backend, was in zip(backends, before, strict=True):
            backend.allow_tf32 = was


def components(device, quick, folder):
    """Labels that are fetched, reduced and sent back are those of the CPU, whatever the device does meanwhile."""
    own = Device(device)
    rng = np.random.default_rng(0)
    maps = (rng.random((2, 2, *(24,) * 3)) < 0.4) * rng.integers(1, 3, (2, 2, *(24,) * 3))
    maps = torch.from_numpy(maps.astype(np.uint8))
    later = reduced(maps.to(own.torch))
    busy = torch.randn(512, 512, device=own.torch)
    for _ in range(20):
        busy = (busy @ busy).clamp(-1, 1)
    found = later().cpu()
    expected = np.stack([[largest_component(one) for one in view] for view in maps.numpy()])
    yield holds("components: voxels that differ", int((found.numpy() != expected).sum()), 0)


def waits(device, quick, folder):
    """Where the host waits for the device within a step of each method, but for components and the step before."""
    for name, method in itertools.product(("ACDC",) if quick else ("ACDC", "LA"), registry.METHODS):
        item = f"{name}, {method}: waits per step"
        if not Device(device).cuda:
            yield Finding(item, "no GPU", "0", None)
            continue
        loop = gpu_runs.loop_of(name, True, Path(folder) / f"waits_{name}_{method}", device=device, method=method)
        loop.stage = len(loop.stages) - 1
        streams, unread = loop.streams(), None
        batches = iter(streams.batches(0, 5, 0, pin_memory=True))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for index, arrays in enumerate(batches):
                torch.cuda.set_sync_debug_mode("warn" if index >= 2 else "default")
                numbers = loop.take_step(streams, arrays)
                torch.cuda.set_sync_debug_mode("default")
                _, unread = unread and unread(), numbers
                loop.step += 1
        found = sorted({f"{Path(one.filename).name}:{one.lineno}" for one in caught if "synchron" in str(one.message)})
        yield holds(item, " ".join(found) or 0, 0)


def resuming(device, quick, folder):
    """A run that was stopped and went on is, with --deterministic, the run that was not."""
    recipe = gpu_runs.recipe_of("ACDC", True, data_dir=gpu_runs.phantoms("ACDC", True, folder), device=device,
                                labeled=2, pre_steps=1, self_steps=3, workers=0, deterministic=True)
    runs = {}
    for name in ("whole", "halted"):
        own = recipe.__class__(**{**vars(recipe), "out": Path(folder) / "resuming" / name})
        data = SETS["ACDC"].data(own)
        if name == "halted":
            stop_at(fit.Fit(own.complete(), data, fit.RunFolder(own.out, own.complete())), 2)
        runs[name] = load_tensors(fit.train(own, data) / "last.pt")["method"]
    differing = [key for key, value in runs["whole"].items() if not torch.equal(value, runs["halted"][key])]
    yield holds("resumed run: tensors that differ", len(differing), 0)


def stop_at(loop, total):
    """Run until so many steps since the start, then as Ctrl-C stops it."""
    take_step = loop.take_step

    def watched(*arguments):
        if loop.total_steps + 1 == total:
            loop.noted_signal = signal.SIGTERM
        return take_step(*arguments)
    loop.take_step = watched
    with contextlib.suppress(SystemExit):
        loop.run()


def ranks(device, quick, folder):
    """Two processes on one device: gradients and running statistics are those of one with the whole batch."""
    context = multiprocessing.get_context("spawn")
    queue, address = context.SimpleQueue(), f"file://{folder}/meeting"
    Path(f"{folder}/meeting").unlink(missing_ok=True)
    started = [context.Process(target=_rank, args=(rank, address, device, queue)) for rank in range(WORLD)]
    for process in started:
        process.start()
    for process in started:
        process.join(300)
    if any(process.exitcode for process in started) or queue.empty():
        yield Finding("two processes", f"exit codes {[process.exitcode for process in started]}", "0", False)
        return
    for item, value, most in queue.get():
        yield within(f"two processes, {item}", value, most)


def _rank(rank, address, device, queue):
    """One of the processes; on a GPU batch norm sees the whole batch, on a CPU its running statistics."""
    end_with_parent()
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(WORLD), LOCAL_RANK="0", LOCAL_WORLD_SIZE="1",
                      MASTER_ADDR="localhost", MASTER_PORT="0")       # not used: they meet at `address`
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=WORLD)
    torch.manual_seed(0)
    alone = quicken_on_gpu(build_subnet("unet", 1, 2)).double().to(device)
    for module in alone.modules():
        if hasattr(module, "p"):
            module.p = 0.0
    shared, x = copy.deepcopy(alone), torch.randn(4, 1, 32, 32, dtype=torch.float64).to(device)
    Ranks().distribute(shared)
    for network, images in ((alone, x), (shared, x[rank::WORLD])):
        network.train(device != "cpu")
        network(images)[0].square().mean().backward()
    Ranks().average_gradients(list(shared.parameters()))
    if rank == 0:
        pairs = {"gradients": [(p.grad, q.grad) for p, q in zip(shared.parameters(), alone.parameters(), strict=True)],
                 "running statistics": list(zip(shared.buffers(), alone.buffers(), strict=True))}
        vectors = {item: [torch.cat([one[side].double().cpu().flatten() for one in tensors]) for side in (0, 1)]
                   for item, tensors in pairs.items()}
        queue.put([(item, distance(*both), 1e-9) for item, both in vectors.items()])
    dist.barrier()
    dist.destroy_process_group()


def backend(device, quick, folder):
    """The processes' exchange that this device has, with one process: NCCL, or gloo."""
    own = Device(device)
    name = "nccl" if own.cuda else "gloo"
    Path(f"{folder}/alone").unlink(missing_ok=True)
    dist.init_process_group(name, init_method=f"file://{folder}/alone", rank=0, world_size=1)
    try:
        value = torch.arange(4.0, device=own.torch)
        dist.all_reduce(value)
        yield holds(f"{name} with one process", value.tolist(), [0.0, 1.0, 2.0, 3.0])
    finally:
        dist.destroy_process_group()


def compiling(device, quick, folder):
    """Compiled networks give the loss and gradients of eager ones."""
    own = Device(device, 2)
    recipe = gpu_runs.recipe_of("ACDC", True, method="supervised" if quick else "cml")
    batch = gpu_runs.batch_of("ACDC", recipe)
    images = {key: own.image(getattr(batch, key)) for key in ("x_l", "x_u")}
    found = []
    for compiled in (False, True):
        method = quicken_on_gpu(gpu_runs.exact(recipe)).to(own.torch, memory_format=own.format)
        if compiled:
            method.networks.compile(backend="inductor" if own.cuda else "aot_eager")
        batch.generator.manual_seed(0)
        found.append(gpu_runs.step(method, batch._replace(**images, y_l=batch.y_l.to(own.torch)), own))
    for key in ("loss", "gradients", "running statistics"):
        yield within(f"compiled: {key}", distance(found[1][key], found[0][key]), 1e-9)


def large_volume(device, quick, folder):
    """A whole-body scan of 14 classes, and what is said when memory runs out."""
    own = Device(device)
    shape, patch = ((64, 64, 40), (32, 32, 32)) if quick else ((512, 512, 600), (112, 112, 80))
    network = own.place(build_subnet("vnet", 1, 14))
    probs = sliding_window(network, torch.zeros(1, *shape), patch, patch)
    wrong = int(((probs.sum(0) - 1).abs() > 1e-3).sum())
    yield Finding(f"{shape} voxels, 14 classes", f"{wrong} voxels off, peak {own.peak_memory():.2f} GiB, result on "
               f"{probs.device.type}", "0 off", wrong == 0)
    message = io.StringIO()
    with contextlib.redirect_stderr(message), contextlib.suppress(SystemExit):
        reported(lambda args: torch.empty(2 ** 48, device=own.torch))([])
    said = " ".join(message.getvalue().split())
    yield Finding("no memory left", said[:90], "one line", bool(re.match("error: out of memory", said)))


CHECKS = {check.__name__: check for check in (devices, agreement, components, waits, resuming, ranks, backend,
                                              compiling, large_volume)}


def lines(name, device, quick, folder):
    """The Findings of a check; whatever it raises is a Finding, too, and the other checks go on."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        yield from CHECKS[name](device, quick, folder)
    except Exception as error:      # what goes wrong on a machine that nobody has seen
        yield Finding(name, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", "", False)
