"""What depends on the hardware, as far as a CPU can tell: order of calls, precision, copies, what is refused."""
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cml import discrepancy_loss, segmentation_loss
from networks.two_view import build_subnet
from runtime import device
from runtime.device import Device, fetch, room_for
from runtime.errors import InputError

# ---- CUDA that is not there --------------------------------------------------------------------------------------


@pytest.fixture
def cuda(monkeypatch):
    """A torch.cuda with two GPUs that takes notes; as the real one, it has no statistics before a device was set."""
    calls = []

    def noting(name, result=None):
        def call(*args):
            calls.append((name, *map(str, args)))
            return result
        monkeypatch.setattr(torch.cuda, name, call)

    def reset(device):
        assert calls[-1:] == [("set_device", str(device))], "CUDA was not started"
        calls.append(("reset_peak_memory_stats", str(device)))
    for name in ("set_device", "synchronize"):
        noting(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    flags = SimpleNamespace(cudnn=SimpleNamespace(benchmark=None, allow_tf32=None),
                            cuda=SimpleNamespace(matmul=SimpleNamespace(allow_tf32=None)))
    monkeypatch.setattr(torch.backends, "cudnn", flags.cudnn)
    monkeypatch.setattr(torch.backends, "cuda", flags.cuda)
    return SimpleNamespace(calls=calls, flags=flags)


@pytest.mark.parametrize("name, taken", [("auto", "cuda:0"), ("cuda", "cuda:0"), ("cuda:0", "cuda:0"),
                                         ("cuda:1", "cuda:1")])
def test_a_gpu_is_set_before_its_statistics_are_reset(cuda, name, taken):
    own = Device(name)
    assert str(own.torch) == taken and own.cuda and own.ahead
    assert cuda.calls == [("set_device", taken), ("reset_peak_memory_stats", taken)]
    assert cuda.flags.cudnn.benchmark is cuda.flags.cudnn.allow_tf32 is cuda.flags.cuda.matmul.allow_tf32 is True


def test_each_rank_sets_its_own_gpu_before_the_ranks_meet(cuda, monkeypatch):
    for name, value in {"RANK": 1, "LOCAL_RANK": 1, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    store = SimpleNamespace(set_timeout=lambda timeout: None)
    monkeypatch.setattr(torch.distributed, "rendezvous", lambda url, timeout: iter([(store, 1, 2)]))
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, device_id, **_: cuda.calls.append(
        ("init_process_group", backend, str(device_id))))
    Device("cuda")
    assert cuda.calls == [("set_device", "cuda:1"), ("reset_peak_memory_stats", "cuda:1"),
                          ("init_process_group", "nccl", "cuda:1")]


def test_a_gpu_that_is_not_there_is_refused(cuda):
    with pytest.raises(InputError, match="--device cuda:2: this PyTorch sees 2 GPUs"):
        Device("cuda:2")


def test_loaders_have_processes_enough_for_the_device_and_no_more_than_the_machine(cuda, monkeypatch):
    for cores, world, expected in ((64, 1, (2, 2, 8, 4)), (3, 1, (2, 2, 3, 3)), (16, 4, (2, 2, 4, 4)),
                                   (1, 1, (1, 1, 1, 1))):
        monkeypatch.setattr(device.job, "cpus", lambda cores=cores: cores)
        monkeypatch.setattr(device.Ranks, "__init__", lambda self, world=world: self.__dict__.update(
            world=1, local=0, local_world=world))
        assert tuple(Device(name, ndim).workers() for name in ("cpu", "cuda") for ndim in (2, 3)) == expected
    assert Device("cpu", 2).workers(0) == 0 and Device("cuda", 2).workers(11) == 11


def test_sums_that_a_gpu_has_no_room_for_are_the_hosts(monkeypatch):
    gpu, cpu = torch.device("cuda:1"), torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2000, 9000))
    assert room_for(1000, gpu) == gpu and room_for(1001, gpu) == room_for(10 ** 12, cpu) == cpu


def test_what_is_fetched_from_a_cpu_is_the_tensor_itself():
    tensor = torch.arange(3)
    assert fetch(tensor)() is tensor


# ---- precision ---------------------------------------------------------------------------------------------------


def test_bfloat16_is_refused_where_its_gradients_are_wrong():
    with pytest.raises(InputError, match="--amp.*3D.*leave --amp out"):
        Device("cpu", 3, amp=True)
    assert Device("cpu", 2, amp=True).amp and not Device("cpu", 3).amp


def test_losses_are_in_float32_under_autocast_and_in_float64_where_the_input_is():
    x = torch.randn(2, 4, 16, 16)
    target = torch.randint(4, (2, 16, 16))
    with Device("cpu", 2, amp=True).autocast():
        logits = nn.Conv2d(4, 4, 1)(x)
        assert logits.dtype == torch.bfloat16
        losses = segmentation_loss(logits, target), discrepancy_loss(logits, logits.flip(1))
    expected = segmentation_loss(logits.double(), target), discrepancy_loss(logits.double(), logits.flip(1).double())
    for loss, exact in zip(losses, expected, strict=True):
        assert loss.dtype == torch.float32 and exact.dtype == torch.float64
        assert loss.item() == pytest.approx(exact.item(), rel=1e-6)         # bfloat16 has three digits


def test_gradients_arrive_after_a_pass_without_them_under_autocast(narrow):
    """autocast keeps weights that it has cast; those of a pass without gradients once took them from the next one."""
    net = build_subnet("unet", 1, 2)
    x = torch.randn(2, 1, 32, 32)
    with Device("cpu", 2, amp=True).autocast():
        with torch.no_grad():
            net(x)
        loss = net(x)[0].float().square().mean()
    loss.backward()
    assert all(p.grad is not None for p in net.parameters())
    assert all(p.grad.abs().max() > 0 for name, p in net.named_parameters() if p.ndim > 1), "weights of convolutions"


@pytest.mark.parametrize("arithmetic", [True, False])
def test_bfloat16_on_a_cpu_without_its_arithmetic_is_said_to_be_slow(monkeypatch, capsys, arithmetic):
    monkeypatch.setattr(device, "_has_bfloat16", lambda: arithmetic)
    for amp in (True, False):
        Device("cpu", 2, amp=amp)
        said = capsys.readouterr().err
        assert ("24 to 60 times longer" in said and said.count("\n") == 1) == (amp and not arithmetic)
