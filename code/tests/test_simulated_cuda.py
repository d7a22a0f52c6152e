"""The CUDA path without a GPU: whole steps, validation and test at the paper's size, with tensors that say cuda:0.

What is on the simulated GPU has shapes alone (PyTorch's FakeTensorMode); the CPU is real. Tensors of the two never
meet, the host reads nothing but by a copy, which gives zeros, and each copy that it would wait for is noted. Autocast
does not act here; methods/test_devices.py has steps in bfloat16.
"""
import contextlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch._dynamo  # here: it looks at Tensor's methods when it is loaded, and must see its own
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorConverter, FakeTensorMode
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves

from dataloaders.scans import Scan
from dataloaders.two_stream import Patches
from evaluation import agreement, inference
from methods import registry
from runtime.device import Device, fetch
from runtime.errors import InputError
from training import checkpoints, fit
from training.datasets import DATASETS

aten, GPU = torch.ops.aten, torch.device("cuda:0")
# Steps that the fast suite takes: of the methods whose losses no other one has, too; and two on volumes
OFTEN = {*((method, "ACDC") for method in registry.METHODS.keys() - {"supervised", "mean_teacher", "dan", "em", "cps",
                                                                     "cfl"}), ("cml", "LA"), ("ss_net", "LA")}


class SimulatedGPU(FakeTensorMode):
    """waits: what the host waited for, in order; launches: how often each operation that computes was given to the GPU.

    reading: whether the host may read numbers, which are 0.
    """

    def __init__(self):
        super().__init__(allow_non_fake_inputs=True)
        self.waits, self.launches, self.reading = [], [], False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if kwargs.pop("pin_memory", False):                 # the host's own, page-locked
            return torch.zeros_like(func(*args, **kwargs))
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == "meta":      # of a tensor that C++ has asked for its own
            device = kwargs["device"] = GPU
        leaves = tree_leaves((args, kwargs))
        there = [leaf for leaf in leaves if isinstance(leaf, FakeTensor)]
        if not there and not any(isinstance(leaf, torch.device) and leaf.type == "cuda" for leaf in leaves):
            return func(*args, **kwargs)
        if torch.is_inference_mode_enabled() and func._can_decompose():     # which is elsewhere done before this
            with self:
                return func.decompose(*args, **kwargs)
        if func is aten._local_scalar_dense.default and self.reading:
            self.waits.append(str(func))
            return args[0].dtype.is_floating_point * 0.0
        if func in (aten._to_copy.default, aten.copy_.default):
            source, target = args[:2][::-1] if func is aten.copy_.default else (args[0], None)
            place = target.device if target is not None else torch.device(device or source.device)
            if place.type != source.device.type:
                if not kwargs.get("non_blocking", args[2] if len(args) > 2 else False):
                    self.waits.append(f"{func} {tuple(source.shape)}")
                if place.type == "cpu":
                    return (torch.zeros(source.shape, dtype=kwargs.get("dtype") or source.dtype) if target is None
                            else target.zero_())
        if not func.is_view:
            self.launches.append(func.overloadpacket.__name__)
        if func is aten._fused_sgd_.default:                # has no kernel for shapes
            assert {one.device for one in there} == {GPU}
            return None
        return super().__torch_dispatch__(func, types, args, kwargs)


@pytest.fixture
def gpu(monkeypatch):
    """A SimulatedGPU, switched on.

    PyTorch's own fakes tell C++ that they are on a GPU, too, whose streams its engine asks for and a build for CPUs
    does not have; here C++ takes them for those of the meta device, and has the keys of a GPU's to choose kernels by.
    A device has to be named with its index, as Device does: C++ would look for the current one.
    """
    make = torch.Tensor._make_subclass
    monkeypatch.setattr(torch.Tensor, "_make_subclass", lambda cls, tensor, grad=False, dispatch_device=False, **keys:
                        make(cls, tensor, grad, **keys))
    monkeypatch.setattr(FakeTensor, "is_cuda", property(lambda self: self.device.type == "cuda"), raising=False)
    monkeypatch.setattr(FakeTensor, "is_meta", False, raising=False)
    monkeypatch.setattr(FakeTensor, "tolist", lambda self: self.cpu().tolist(), raising=False)
    monkeypatch.setattr(FakeTensorConverter, "set_tensor_memo", lambda *_: None)    # weak references to parameters
    monkeypatch.setattr(torch.cuda, "Event", lambda: SimpleNamespace(record=lambda: None, synchronize=lambda: None))
    monkeypatch.setattr(_ConvNd, "reset_parameters", lambda self: None)     # takes longer than the step, for no numbers
    flags = [(backend, flag, getattr(backend, flag)) for backend, flag in (
        (torch.backends.cudnn, "benchmark"), (torch.backends.cudnn, "allow_tf32"),
        (torch.backends.cuda.matmul, "allow_tf32"))]
    monkeypatch.setattr(inference, "room_for", lambda size, device: device)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    with SimulatedGPU() as mode:
        yield mode
    torch.__future__.set_overwrite_module_params_on_conversion(False)
    for backend, flag, value in flags:      # which a Device changes
        setattr(backend, flag, value)


def device_of(recipe):
    """The recipe's Device on the simulated GPU, by its own constructor."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        for name in ("set_device", "reset_peak_memory_stats"):
            patch.setattr(torch.cuda, name, lambda *_: None)
        return Device("cuda", len(recipe.patch_size), recipe.amp)


@pytest.fixture
def loop_of(gpu, monkeypatch, tmp_path):
    """loop_of(recipe) -> its Fit on the simulated GPU, without scans."""
    monkeypatch.setattr(fit, "device_of", device_of)
    monkeypatch.setattr(fit, "Material", lambda *_: SimpleNamespace(
        content=SimpleNamespace(check_sum=None), remarks=list))
    monkeypatch.setattr(Device, "__str__", lambda self: "a simulated GPU")
    return lambda recipe: fit.Fit(recipe, None, SimpleNamespace(
        path=tmp_path, earlier=lambda: None, check_data=lambda content: None, finished=False, fields=recipe.fields))


def recipe_of(dataset, method, **changes):
    """The paper's recipe with this method, or a skip where the method does not take the data set."""
    try:
        recipe = replace(DATASETS[dataset].presets["paper"], method=method, **changes).complete()
        registry.check(recipe)
        return recipe
    except InputError as error:
        pytest.skip(str(error))


def step(loop, stage):
    """One step of a stage, as the training loop takes it -> what waits for its numbers."""
    recipe, size = loop.recipe, loop.recipe.patch_size
    loop.stage = stage
    loop.method.begin(loop.stages[stage])
    images = [torch.zeros(scans, recipe.in_channels, *size) for scans in (recipe.labeled_batch, recipe.unlabeled_batch)]
    labels = torch.zeros(recipe.labeled_batch, *size, dtype=torch.uint8)
    maps = loop.method.of_label and torch.zeros(recipe.labeled_batch, recipe.num_classes - 1, *size)
    return loop.take_step(None, Patches(images[0], labels, images[1] if loop.stages[stage].unlabelled else None, maps))


# ---- the simulation itself ---------------------------------------------------------------------------------------


def test_tensors_say_that_they_are_on_a_gpu_and_meet_no_others(gpu):
    x, host = torch.zeros(2, 3, device=GPU), torch.zeros(2, 3)
    assert x.is_cuda and x.device == GPU and not host.is_cuda and host.sum().item() == 0
    assert x.T.device == torch.cosine_similarity(x, x).device == GPU
    for mixed in (lambda: x + host, lambda: torch.where(host > 0, x, x), lambda: nn.functional.linear(x, host)):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    assert (x + torch.tensor(2.0)).device == GPU        # a number may


@pytest.mark.parametrize("read", [torch.Tensor.item, lambda x: bool((x > 0).all()), lambda x: x[x > 0],
                                  torch.Tensor.nonzero, torch.unique])
def test_the_host_cannot_read_by_accident(gpu, read):
    with pytest.raises(Exception, match=r"_local_scalar_dense|nonzero|_unique2"):
        read(torch.zeros(1, device=GPU))


def test_copies_that_the_host_waits_for_are_noted(gpu):
    x, numbers = torch.zeros(4, device=GPU), torch.ones(4)
    assert fetch(x)().tolist() == [0] * 4 and numbers.to(GPU, non_blocking=True).is_cuda
    x.copy_(numbers, non_blocking=True)
    assert gpu.waits == []
    assert x.cpu().tolist() == [0] * 4 and numbers.to(GPU).is_cuda and torch.tensor([1.0], device=GPU).is_cuda
    x.copy_(numbers)
    assert x.tolist() == [0] * 4 and len(gpu.waits) == 5


def test_layers_pass_gradients(gpu):
    layers = nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4), nn.ReLU(inplace=True))
    layers = layers.to(GPU, memory_format=torch.channels_last_3d)
    layers(torch.zeros(2, 1, 8, 8, 8, device=GPU)).sum().backward()
    assert all(p.grad.device == p.device == GPU and p.grad.shape == p.shape for p in layers.parameters())


# ---- training ----------------------------------------------------------------------------------------------------


def check_steps(gpu, loop):
    """A step of each stage: the host waits for nothing before it reads the numbers, all that learns has a gradient."""
    own = loop.method
    assert {tensor.device for tensor in (*own.parameters(), *own.buffers())} == {GPU}
    assert not any(type(module) is nn.BatchNorm3d for module in own.modules())      # a GPU has layers of its own
    for stage in range(len(loop.stages)):
        gpu.waits.clear()
        numbers = step(loop, stage)
        assert gpu.waits == [], loop.stages[stage].name
        assert "loss" in numbers()
    for parameter in own.trained_parameters():
        assert parameter.grad.device == GPU and parameter.grad.shape == parameter.shape


@pytest.mark.parametrize(("method", "dataset"), [
    pytest.param(method, dataset, marks=() if (method, dataset) in OFTEN else pytest.mark.slow)
    for method in registry.METHODS for dataset in ("LA", "ACDC", "BraTS2019")])
def test_every_stage_takes_a_step_of_the_papers_size_and_never_waits(request, gpu, loop_of, method, dataset):
    if method != "cml":     # a method's losses are its own; the networks' layers are those of CML's
        request.getfixturevalue("shallow")
    check_steps(gpu, loop_of(recipe_of(dataset, method)))


def test_a_method_that_reads_the_gpu_is_noticed(shallow, gpu, loop_of, monkeypatch):
    reading = {"an item": lambda losses: losses.item(), "a copy": lambda losses: losses.cpu(),
               "a test": lambda losses: 1 if losses > 0 else 0}
    for what, read in reading.items():
        loop = loop_of(recipe_of("ACDC", "supervised", patch_size=(32, 32)))
        make = loop.stages[0].losses

        def reads(batch, make=make, read=read):
            for loss, terms in make(batch):
                read(loss)
                yield loss, terms
        loop.stages = [loop.stages[0]._replace(losses=reads)]
        gpu.waits.clear()
        with contextlib.suppress(torch._subclasses.fake_tensor.DataDependentOutputException):
            step(loop, 0)
            assert gpu.waits, what


def test_gradients_of_a_steps_losses_are_added_in_few_launches(gpu, loop_of, monkeypatch):
    """Not by one launch for each parameter and loss; the fused optimiser takes one for all. docs/speed.md has the sum.

    The norm of all gradients takes a few launches of a GPU, and one for each of the simulated one.
    """
    monkeypatch.setattr(torch.nn.utils, "get_total_norm", lambda gradients: torch.zeros((), device=GPU))
    loop = loop_of(recipe_of("ACDC", "cml"))
    step(loop, 1)       # operations that PyTorch writes in others are taken apart at their first call alone
    gpu.launches.clear()
    step(loop, 1)
    count = gpu.launches.count
    assert sum(not name.startswith(("empty", "new_empty", "_unsafe_view")) for name in gpu.launches) < 1_400
    assert count("_foreach_add_") == 2 and count("_fused_sgd_") == 1 and count("_foreach_zero_") == 1
    counters = sum(isinstance(module, nn.BatchNorm2d) for module in loop.method.networks.modules())
    assert count("add_") - 3 * counters < 20        # each pass counts itself in its batch norms
    assert count("add_") < len(loop.parameters)


# ---- everything else -----------------------------------------------------------------------------------------------


@pytest.fixture
def placed(gpu):
    """placed(dataset, method) -> (recipe, its method on the simulated GPU in evaluation mode)."""
    def place(dataset, method):
        recipe = recipe_of(dataset, method)
        return recipe, device_of(recipe).place(registry.build(recipe)).eval()
    return place


SCANS = {"LA": (148, 132, 88), "ACDC": (10, 216, 256), "BraTS2019": (138, 170, 140)}


@pytest.mark.parametrize("dataset", ["LA", "ACDC", pytest.param("BraTS2019", marks=pytest.mark.slow)])
def test_a_scan_of_the_papers_size_is_segmented_and_validated(gpu, placed, dataset):
    recipe, method = placed(dataset, "cml")
    shape, gpu.reading = SCANS[dataset], True
    image = torch.zeros(recipe.in_channels, *shape)
    options = {"coarse": True} if dataset == "BraTS2019" else {"weights": "gaussian"}
    views = inference.segment(method, image, recipe, **options)
    assert list(views) == ["fused", "subnet0", "subnet1"]
    assert {(view.device, view.shape) for view in views.values()} == {(GPU, (recipe.num_classes, *shape))}
    assert inference.likeliest(views["fused"]).shape == shape
    dice = inference.mean_dice(method, [Scan("a", image, torch.zeros(shape, dtype=torch.uint8))],
                               lambda method, image: inference.segment(method, image, recipe, coarse=True),
                               recipe.num_classes)
    assert list(dice) == list(views)


@pytest.mark.parametrize("method", ["cml_plus", "mcf", pytest.param("cml", marks=pytest.mark.slow)])
def test_two_views_are_compared(gpu, placed, method):
    recipe, method = placed("ACDC", method)
    image = torch.zeros(1, *SCANS["ACDC"])
    with agreement.noting_cosines(method.tested) as cosines:
        views = inference.segment(method, image, recipe, views=method.pair)
    assert set(method.pair) <= set(views) and all(view.is_cuda for view in views.values())
    assert {noted.device.type for noted in cosines} == {"cpu"}


def test_a_checkpoint_of_a_cpu_is_taken_over(gpu, loop_of, tmp_path, monkeypatch):
    """Weights, own optimisers and momentum land on the GPU; what goes into the next one is there, too."""
    recipe = recipe_of("ACDC", "sassnet")
    method = registry.build(recipe)
    for tensor in method.state_dict().values():
        if torch.is_tensor(tensor):
            tensor.zero_()
    optimizer = torch.optim.SGD(method.trained_parameters(), 0.1, momentum=0.9)
    for parameter in method.trained_parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    checkpoints.Checkpoints(tmp_path, method, optimizer, [40_000], recipe.fields()).save(
        stage=0, step=7, best=0.5, last_dice=None)
    loop = loop_of(recipe)

    def really_read(*arguments, read=checkpoints.load_tensors):
        with _disable_current_modes():      # torch.load would give shapes
            return read(*arguments)
    monkeypatch.setattr(checkpoints, "load_tensors", really_read)
    state = loop.checkpoints.load()
    assert (state["stage"], state["step"]) == (0, 7)
    tensors = [*loop.method.parameters(), *loop.method.buffers(),
               *(moments["momentum_buffer"] for moments in loop.optimizer.state.values())]
    assert {tensor.device for tensor in tensors} == {GPU} and len(loop.optimizer.state) == len(loop.parameters)
    check_steps(gpu, loop)
