"""The demo runs from end to end, at the smallest size."""
import numpy as np
import pytest

import demo


@pytest.mark.parametrize("dataset, size, recipe", [
    ("ACDC", (3, 40, 36), {"patch_size": (32, 32)}),
    pytest.param("LA", (40, 36, 34), {"patch_size": (32, 32, 32), "stride": (32, 32, 32), "half_resolution": False,
                                      "holdout_test": 0}, marks=pytest.mark.slow)])
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
