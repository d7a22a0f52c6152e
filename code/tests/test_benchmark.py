"""The fast paths give what the plain recipe gives, and the benchmark runs from end to end, at the smallest size."""
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import benchmark
from benchmarks import predicting, rows, start, workloads
from dataloaders.phantom import draw_LA
from method import Batch
from methods import registry
from runtime.device import Device


def double(recipe, fast):
    """The recipe's method in float64 without dropout, plain or as the device places it."""
    torch.manual_seed(0)
    method = registry.build(recipe).double().train()
    for module in method.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
    return Device("cpu", len(recipe.patch_size)).place(method) if fast else method


@pytest.mark.parametrize(("name", "method", "capability"), [      # of the CPU: other layers are exchanged
    pytest.param(name, method, capability, marks=pytest.mark.slow if name == "LA" else ())
    for name, method in (("LA", "cml"), ("ACDC", "cml"), ("ACDC", "cfl")) for capability in ("AVX2", "AVX512")])
def test_the_fast_step_has_the_plain_steps_loss_gradients_and_running_statistics(name, method, capability, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    recipe = workloads.settings(name, quick=True)[1]
    recipe = replace(recipe, method=method, patch_size=(16,) * len(recipe.patch_size), labeled_batch=4,
                     unlabeled_batch=4)
    generator = torch.Generator().manual_seed(3)
    x_l, x_u = torch.randn(2, 4, 1, *recipe.patch_size, generator=generator, dtype=torch.float64)
    y = torch.randint(0, recipe.num_classes, (4, *recipe.patch_size), generator=generator)
    results = {}
    for variant, step in (("plain", workloads.plain_step), ("fast", workloads.fast_step)):
        trained = double(recipe, variant == "fast")
        optimizer = torch.optim.SGD(trained.trained_parameters(), 0.01)
        device = Device("cpu", len(recipe.patch_size))
        images = (device.image(x_l), device.image(x_u)) if variant == "fast" else (x_l, x_u)
        loss = step(trained, optimizer, Batch(images[0], y, images[1], 0, 1, torch.Generator().manual_seed(0)))
        results[variant] = loss, dict(trained.named_buffers()), {
            parameter: value.grad for parameter, value in trained.named_parameters()}
    (loss, buffers, gradients), (fast_loss, fast_buffers, fast_gradients) = results["plain"], results["fast"]
    torch.testing.assert_close(fast_loss, loss, rtol=1e-12, atol=0)
    for mine, theirs in ((fast_buffers, buffers), (fast_gradients, gradients)):
        assert mine.keys() == theirs.keys() and len(mine) > 20
        for key, value in theirs.items():
            torch.testing.assert_close(mine[key], value, rtol=1e-8, atol=1e-12, msg=key)


@pytest.mark.slow
def test_a_row_compares_two_ways_and_quick_judges_nothing(capsys):
    [[cells]] = benchmark.main(["metrics", "--quick"])
    plain, fast, times = map(float, cells[1:4])
    assert cells[0] == "metrics" and times == pytest.approx(plain / fast, rel=0.02) and cells[-1] == ""
    assert "QUICK" in capsys.readouterr().out


@pytest.mark.parametrize("fast, memory, words", [(1.0, 0.5, "met"), (3.0, 0.5, "missed"), (1.0, 0.8, "missed")])
def test_a_verdict_follows_the_targets(fast, memory, words, monkeypatch):
    monkeypatch.setattr(rows, "compare", lambda *_: {"plain": (4.0, 1.0), "fast": (fast, memory)})
    assert rows.row_of("LA-step", benchmark.Options(row="LA-step"))[-1] == words
    assert rows.row_of("LA-step", benchmark.Options(row="LA-step", quick=True))[-1] == ""


@pytest.mark.parametrize("row, names", [("validation", ["ACDC", "LA"]), ("limit", ["ACDC-volume", "ACDC-step"])])
def test_the_reports_have_a_line_each(row, names, monkeypatch):
    monkeypatch.setattr(workloads, "SETS", {name: workloads.SETS[name] for name in ("ACDC", "LA")})
    monkeypatch.setattr(rows, "LIMITED", ("ACDC-volume", "ACDC-step"))
    monkeypatch.setattr(rows, "median_of", lambda call, options: 1.0)
    [lines] = benchmark.main([row, "--quick"])
    assert [cells[0] for cells in lines] == names


def test_convolutions_are_counted_in_the_passes_they_run():
    _, recipe, _ = workloads.settings("ACDC", quick=True)
    method, passes = workloads.a_method(recipe, "fast"), Counter()
    for batch, backward in ((2, True), (2, True), (3, False)):
        with rows.counting(passes, method, backward):
            method.networks(torch.zeros(batch, 1, 32, 32))
    method.networks(torch.zeros(2, 1, 32, 32))
    layers = sum(type(module).__name__.startswith("Conv") for module in method.modules())
    assert sum(passes.values()) == 3 * layers
    first = False, (16, 1, 3, 3), (1, 1), (1, 1)        # of both encoders
    assert passes[(*first, (2, 1, 32, 32)), True] == 4 and passes[(*first, (3, 1, 32, 32)), False] == 2


def test_every_method_is_timed_beside_the_supervised_one(monkeypatch, narrow):
    taken = []

    class Here(rows.Timed):
        """In this process, where networks are narrow."""

        def __init__(self, make, method, quick):
            self.step, self.method, self.pool = make(method, quick), method, SimpleNamespace(shutdown=lambda: None)

        def time(self):
            self.step()
            taken.append(self.method)
            return {"supervised": 2.0}.get(self.method, 5.0)

        def peak(self):
            return 1.5
    monkeypatch.setattr(rows, "Timed", Here)
    monkeypatch.setattr(rows, "METHODS", ("supervised", "sassnet"))
    [lines] = benchmark.main(["methods", "--quick"])
    assert lines == [["supervised", "2", "1.00", "1.50"], ["sassnet", "5", "2.50", "1.50"]]
    assert taken == 4 * ["supervised"] + 2 * ["sassnet", "supervised"]


def test_another_revision_is_asked_for_and_a_missing_peer_is_said(capsys, monkeypatch):
    for row in ("start", "demo"):
        with pytest.raises(SystemExit):
            benchmark.main([row])
        assert f"{row}: --against is missing" in capsys.readouterr().err
    monkeypatch.setattr(predicting.importlib.util, "find_spec", lambda name: None)
    assert benchmark.main(["monai", "--quick"]) == [[]]
    assert capsys.readouterr().out.count("MONAI is not installed") == 1


def test_a_command_of_two_revisions_is_a_line_of_the_least_seconds():
    then, now = iter([3.0, 2.0, 2.5]), iter([0.9, 0.5, 0.8])
    calls = {"then": lambda: next(then), "now": lambda: next(now)}
    assert start.line("x --help", calls, 0.35, 3, False) == ["x --help", "2.00", "0.50", "0.25", "≤ 0.35", "met"]
    assert start.line("x", {"then": lambda: 1.0, "now": lambda: 0.5}, 0.35, 1, False)[-1] == "missed"


@pytest.mark.slow
def test_the_windows_of_predict_are_fewer_and_memory_is_one_views(narrow):
    [lines] = benchmark.main(["windows", "--quick"])
    assert int(lines[1][1]) <= int(lines[0][1]) and lines[0][3] == "1.00"
    [[every, first]] = [benchmark.main(["memory", "--quick"])[0]]
    assert float(every[1]) > 2 * float(first[1]) > 100


@pytest.mark.slow
def test_every_row_runs(tmp_path):
    tables = benchmark.main(["all", "--quick", "--plot", str(tmp_path / "growth.png")])
    assert list(map(len, tables))[:7] == [len(rows.TARGETS), 3, 4, 3, len(registry.METHODS), 2, 2]
    assert "missed" not in str(tables)
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_the_plain_recipes_give_what_the_fast_ones_give():
    _, ref = draw_LA(np.random.default_rng(0), (48, 40, 36))
    pred = np.roll(ref, (2, -1), (0, 1))
    fast = workloads.class_metrics(pred, ref, 2)[0]
    assert [fast[key] for key in ("dice", "jaccard", "hd95", "asd")] == pytest.approx(
        workloads.plain_metrics(pred, ref, 2)[0], abs=1e-6)
    plain, fast = (workloads.surfaces(variant, quick=True)() for variant in ("plain", "fast"))
    assert fast == pytest.approx(plain) and fast[1] > 20
    plain, fast = (workloads.components(variant, quick=True)() for variant in ("plain", "fast"))
    assert np.array_equal(np.stack(plain), fast[0].numpy())


@pytest.mark.parametrize("name", ["ACDC", pytest.param("LA", marks=pytest.mark.slow)])
def test_a_volumes_decision_is_the_plain_recipes(name):
    plain, fast = (workloads.volume(variant, True, name)() for variant in ("plain", "fast"))
    agreement = (np.asarray(plain[0]) == np.asarray(fast[0])).mean()
    assert agreement > 0.9999       # single precision: ties of an untrained network may fall either way
