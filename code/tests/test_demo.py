"""The demo and the benchmark run from end to end, at the smallest size."""
import numpy as np
import pytest

import benchmark
import demo
from dataloaders.phantom import draw_LA


@pytest.mark.parametrize("dataset, size, recipe", [
    ("ACDC", (3, 40, 36), {"patch_size": (32, 32)}),
    ("LA", (40, 36, 34), {"patch_size": (32, 32, 32), "stride": (32, 32, 32), "half_resolution": False,
                          "holdout_test": 0})])
def test_the_demo_ends_with_a_table_and_a_picture(dataset, size, recipe, tmp_path, monkeypatch, narrow, capsys):
    tiny = demo.DEMOS[dataset]._replace(phantoms={"train": 3, "test": 2, "size": size}, recipe=recipe | {
        "labeled": 1, "labeled_batch": 2, "unlabeled_batch": 2, "pre_steps": 2, "self_steps": 3, "eval_every": 2})
    monkeypatch.setitem(demo.DEMOS, dataset, tiny)
    arguments = ["--dataset", dataset, "--out", str(tmp_path)]
    rows = demo.main(arguments)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["supervised", "CML, subnet1", "CML, subnet0",
                                                                  "CML, fused"]
    dice = np.mean([row["dice"] for row in rows["cml"]])
    assert f"{100 * dice:.2f} ±" in lines[-1]
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    again = demo.main(arguments)        # finished runs are tested, not trained, again
    assert [row["dice"] for row in again["cml"]] == [row["dice"] for row in rows["cml"]]


@pytest.mark.parametrize("row", ["metrics", "components", "sampling", "ACDC-volume"])
def test_a_benchmark_row_compares_two_ways_to_one_result(row, capsys):
    lines = benchmark.main([row, "--quick"])
    assert f"| {row} |" in lines[-1] and float(lines[-1].split("|")[4]) > 0


def test_the_plain_recipes_give_what_the_fast_ones_give():
    _, ref = draw_LA(np.random.default_rng(0), (48, 40, 36))
    pred = np.roll(ref, (2, -1), (0, 1))
    fast = benchmark.class_metrics(pred, ref, 2)[0]
    assert [fast[key] for key in ("dice", "jaccard", "hd95", "asd")] == pytest.approx(
        benchmark.plain_metrics(pred, ref, 2)[0], abs=1e-6)
    variants = benchmark.components_variants(quick=True)
    assert np.array_equal(np.stack(variants["plain"]()), variants["fast"]()[0].numpy())
    volumes = benchmark.volume_variants("ACDC", quick=True)
    assert np.array_equal(volumes["plain"]()[0], volumes["fast"]()[0].numpy())
