"""gpu_day.py from end to end without a GPU, and its checks on one where there is one."""
import json
import signal
from types import SimpleNamespace

import pytest
import torch

import gpu_day
from benchmarks import gpu_checks, gpu_parts, gpu_timing
from benchmarks.gpu_checks import Finding
from runtime.errors import InputError
from runtime.files import load_tensors
from training import fit

QUICK = ["--quick", "--device", "cpu"]
LONG = "ranks", "compiling"     # checks


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_all_of_it_runs_and_what_is_known_is_not_made_again(tmp_path, capsys, monkeypatch, shallow, no_curves):
    """Checks, times, trains; then everything is there already. Checks that take long are tested below."""
    monkeypatch.setattr(gpu_timing, "VARIANTS", (gpu_timing.PLAIN_VARIANT, *gpu_timing.VARIANTS[3:4]))
    monkeypatch.setattr(gpu_checks, "CHECKS", {name: check for name, check in gpu_checks.CHECKS.items()
                                               if name not in LONG})
    command = ["check", "time", "train", *QUICK, "--out", str(tmp_path)]
    assert gpu_day.main(command) == 0
    printed = capsys.readouterr().out
    assert "FAIL" not in printed and printed.count("PASS") > 20
    for words in ("ACDC in float64: loss", "ACDC in bfloat16: gradients", "LA in bfloat16 | refused", "resumed run",
                  "no memory left", "ACDC, plain recipe", "LA, + bf16", "a checkpoint",
                  "nothing is left to train", *(f"{name}_{labeled}: last.pt on" for name, labeled in gpu_parts.ORDER)):
        assert words in printed, words
    order = [printed.index(f"run folder: {tmp_path / f'{name}_{labeled}'}") for name, labeled in gpu_parts.ORDER]
    assert order == sorted(order)
    rows = [line for line in printed.splitlines() if line.startswith(("| ACDC, + bf16 |", "| LA, + bf16 |"))]
    assert len(rows) == 2 and all(float(cell) > 0 for row in rows for cell in row.split(" | ")[1:3])

    def never(*_):
        raise AssertionError("was known")
    for owner, name in ((gpu_timing, "measure"), (gpu_checks, "lines"), (fit.Fit, "run")):
        monkeypatch.setattr(owner, name, never)
    assert gpu_day.main(command) == 0
    again = capsys.readouterr().out
    assert [row in again for row in rows] == [True, True] and again.count("PASS") == printed.count("PASS")


def test_a_check_that_fails_or_raises_is_a_line_and_is_made_again(tmp_path, capsys, monkeypatch):
    asked = []

    def wrong(device, quick, folder):
        asked.append("wrong")
        yield Finding("a value", "2", "1", False)

    def raising(device, quick, folder):
        asked.append("raising")
        yield Finding("first", "1", "1", True)
        raise RuntimeError("CUDA error: \n no kernel image")

    def right(device, quick, folder):
        asked.append("right")
        yield Finding("a value", "1", "1", True)
    monkeypatch.setattr(gpu_checks, "CHECKS", {"wrong": wrong, "raising": raising, "right": right})
    for _ in range(2):
        assert gpu_day.main(["check", *QUICK, "--out", str(tmp_path)]) == 1
        printed = capsys.readouterr().out
        assert printed.count("FAIL") == 2 and "RuntimeError: CUDA error: no kernel image" in printed
    assert asked == ["wrong", "raising", "right", "wrong", "raising"]
    with (tmp_path / "check.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"item": "half a li')
    assert gpu_day.main(["check", *QUICK, "--out", str(tmp_path)]) == 1 and asked.count("right") == 1


def test_what_another_card_or_version_found_is_not_taken_over(tmp_path):
    options = SimpleNamespace(out=tmp_path, quick=False)
    gpu_parts.Records(options, "time", {"card": "H100", "torch": "2.13"}).add("a step", [1.0])
    assert gpu_parts.Records(options, "time", {"card": "H100", "torch": "2.13"}).found == {"a step": [1.0]}
    assert gpu_parts.Records(options, "time", {"card": "H100", "torch": "2.11"}).found == {}
    options.quick = True
    assert gpu_parts.Records(options, "time", {"card": "H100", "torch": "2.13"}).found == {}
    assert json.loads((tmp_path / "time.jsonl").read_text(encoding="utf-8"))["key"]["card"] == "H100"


def test_training_stops_when_time_is_over_and_goes_on_next_time(tmp_path, capsys, monkeypatch, shallow, no_curves):
    """The timer's signal finds the second step of ACDC's self-training; next time, that run is finished first."""
    monkeypatch.setattr(gpu_parts, "ORDER", (("ACDC", 7), ("LA", 8)))
    monkeypatch.setattr(gpu_parts, "tested", lambda *_: None)
    command = ["train", *QUICK, "--out", str(tmp_path), "--minutes"]
    take_step, steps = fit.Fit.take_step, []

    def noted(self, *rest):
        steps.append((self.recipe.dataset, self.stage, self.step))
        if steps[-1] == ("ACDC", 1, 0):
            signal.raise_signal(signal.SIGTERM)
        return take_step(self, *rest)
    monkeypatch.setattr(fit.Fit, "take_step", noted)
    with monkeypatch.context() as patch:
        patch.setattr(gpu_parts.threading, "Timer", lambda *_: SimpleNamespace(start=lambda: None, cancel=lambda: None))
        assert gpu_day.main([*command, "0"]) == 0
    assert "time is over" in capsys.readouterr().out and steps[-1][0] == "ACDC" and not list(tmp_path.glob("*/last.pt"))
    done = len(steps)
    assert gpu_day.main([*command, "5"]) == 0
    printed = capsys.readouterr().out
    assert "resuming after step" in printed and "nothing is left to train" in printed
    assert [one for one in steps[:done] if one in steps[done:]] == []       # nothing twice
    assert {path.parent.name for path in tmp_path.glob("*/last.pt")} == {"ACDC_7", "LA_8"}
    assert load_tensors(tmp_path / "ACDC_7" / "last.pt")["step"] == 4


def test_a_variant_that_failed_is_timed_the_next_time(tmp_path, capsys, monkeypatch):
    card = SimpleNamespace(busy=True, timed=0)

    def measure(variant, name, *_):
        if card.busy:
            raise RuntimeError("CUDA out of \nmemory")
        card.timed += 1
        return [f"{name}, {variant.name}", "1"], SimpleNamespace(kernels=[], slow=list), None
    monkeypatch.setattr(gpu_parts.gpu_timing, "measure", measure)
    monkeypatch.setattr(gpu_parts.gpu_timing, "others", lambda *_: [])
    command = ["time", *QUICK, "--out", str(tmp_path)]
    assert gpu_day.main(command) == 1 and "RuntimeError: CUDA out of memory" in capsys.readouterr().out
    card.busy = False
    assert gpu_day.main(command) == 0 and card.timed > 2
    assert gpu_day.main(command) == 0 and "out of memory" not in capsys.readouterr().out


def test_a_test_that_refuses_leaves_the_next_recipe_its_turn(tmp_path, capsys, monkeypatch):
    trained = []

    def refuse(args):
        raise InputError("test_test_last.csv: is the result of 1 other case")
    monkeypatch.setattr(gpu_parts, "train", lambda recipe, data: trained.append(recipe.dataset) or tmp_path)
    monkeypatch.setattr(gpu_parts, "tested", lambda *_: "test")
    for name in ("ACDC", "LA"):
        monkeypatch.setattr(gpu_parts.SETS[name].test.main, "__wrapped__", refuse)
    assert gpu_day.main(["train", *QUICK, "--out", str(tmp_path)]) == 0
    assert len(trained) == len(gpu_parts.ORDER) and capsys.readouterr().out.count("1 other case") == len(trained)


def test_scans_that_are_not_here_are_named_and_the_next_recipe_is_taken(tmp_path, capsys):
    assert gpu_day.main(["train", "--device", "cpu", "--data-dir", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert all(f"{name} {labeled}: --data-dir {tmp_path / name}" in printed for name, labeled in gpu_parts.ORDER)


def test_hours_are_those_of_both_stages():
    """ACDC: 30,000 steps of self-training, and 10,000 of pre-training at 3/8 of their time."""
    assert gpu_timing.hours("ACDC", 100) == pytest.approx((30_000 + 10_000 * 3 / 8) * 0.1 / 3600)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LONG)
def test_long_checks_pass_on_a_cpu(narrow, tmp_path, name):
    lines = list(gpu_checks.lines(name, "cpu", True, tmp_path))
    assert lines and [line for line in lines if not line.passed] == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", gpu_checks.CHECKS)
def test_checks_pass_on_a_gpu(name, tmp_path):
    lines = list(gpu_checks.lines(name, "cuda:0", False, tmp_path))
    assert lines and [line for line in lines if line.passed is False] == []
