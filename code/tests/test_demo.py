"""The demo runs from end to end, at the smallest size; at its own size, its claims hold."""
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest

import demo


class Here:
    """Does at once, in this process, what a pool of processes is given: those take longer to start than the demo."""

    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, function, *args):
        done = Future()
        done.set_result(function(*args))
        return done


@pytest.mark.parametrize("dataset, size, recipe", [
    ("ACDC", (3, 40, 36), {"patch_size": (32, 32), "network": "narrow_unet"}),
    pytest.param("LA", (40, 36, 34), {"patch_size": (32, 32, 32), "stride": (32, 32, 32), "half_resolution": False,
                                      "holdout_test": 0, "network": "narrow_vnet"}, marks=pytest.mark.slow)])
def test_the_demo_ends_with_a_table_and_a_picture(dataset, size, recipe, tmp_path, monkeypatch, capsys):
    tiny = demo.DEMOS[dataset]._replace(phantoms={"train": 3, "test": 2, "size": size}, recipe=recipe | {
        "labeled": 1, "labeled_batch": 2, "unlabeled_batch": 2, "pre_steps": 2, "self_steps": 3, "eval_every": 2})
    monkeypatch.setitem(demo.DEMOS, dataset, tiny)
    if dataset == "ACDC":
        monkeypatch.setattr(demo, "ProcessPoolExecutor", Here)
    rows = demo.main(["--dataset", dataset, "--out", str(tmp_path)])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["supervised", "CML, subnet1", "CML, subnet0",
                                                                  "CML, fused"]
    dice = np.mean([row["dice"] for row in rows["cml"]])
    assert f"{100 * dice:.2f} ±" in lines[-1]
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    home = tmp_path / f"{dataset}_seed1337"
    [data_dir] = [path for path in home.iterdir() if path.name not in demo.TITLES]
    again = demo.run(tiny, "cml", 1337, data_dir, home / "cml")     # a finished run is tested, not trained, again
    assert [row["dice"] for row in again] == [row["dice"] for row in rows["cml"]]


@pytest.mark.parametrize("dataset", demo.DEMOS)
def test_a_run_can_start_with_each_recipe(dataset):
    of, phantoms, recipe = demo.DEMOS[dataset]
    started = replace(of.presets["mini"], **recipe).check()
    assert started.labeled < phantoms["train"]
    least = [phantoms["size"]] * 2 if isinstance(phantoms["size"], int) else phantoms["size"]
    assert all(extent >= patch for extent, patch in zip(least, started.patch_size, strict=True))


@pytest.mark.slow
def test_cml_segments_the_phantoms_and_is_ahead_of_the_labelled_ones_alone(tmp_path):
    rows = demo.main(["--out", str(tmp_path)])
    cml, supervised = (np.mean([row["dice"] for row in rows[method]]) for method in ("cml", "supervised"))
    assert cml > 0.7 and cml > supervised + 0.08
