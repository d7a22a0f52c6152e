"""--init-from: a run that starts from another one's weights."""
import dataclasses
import shutil

import pytest
import torch

from dataloaders import scans
from runtime.errors import InputError
from training.recipe import Recipe, load_recipe
from training.run_folder import read_content
from training.trained import load_run

pytestmark = pytest.mark.usefixtures("shallow", "no_curves")
SETS = "ACDC", pytest.param("LA", marks=pytest.mark.slow), pytest.param("BraTS2019", marks=pytest.mark.slow)


@pytest.fixture
def recipe(recipe):
    """Of two steps."""
    return lambda dataset="ACDC", **changes: recipe(dataset, **{"pre_steps": 1, "self_steps": 1} | changes)


@pytest.fixture
def first(recipe, runs, tmp_path):
    """first(dataset, **changes) -> folder of a short run."""
    return lambda dataset="ACDC", **changes: runs.trained(recipe(dataset, out=tmp_path / "first", **changes))


@pytest.mark.parametrize("dataset", SETS)
def test_the_first_weights_are_the_last_ones_of_the_other_run(first, recipe, runs, dataset):
    one = first(dataset)
    loop = runs.loop(recipe(dataset, init_from=one))
    assert runs.same_tensors(dict(loop.method.state_dict()), runs.weights(one))
    plain = runs.trained(recipe(dataset, out=one.parent / "plain"))
    assert load_recipe(plain, type(recipe(dataset))).init_from is None
    out = runs.train(recipe(dataset, out=plain.parent / "second", init_from=one))
    assert load_recipe(out, type(recipe(dataset))).init_from == one
    assert runs.rows(out)[0]["loss"] != runs.rows(plain)[0]["loss"]


@pytest.mark.parametrize("what", [pytest.param("kept", marks=pytest.mark.slow), "gone", "moved", "it alone moved"])
def test_it_resumes_bit_for_bit_also_when_the_first_run_is_gone_or_both_are_moved(first, recipe, runs, tmp_path,
                                                                                 monkeypatch, what):
    one = first()
    recipe = recipe(init_from=one, checkpoint_steps=1, self_steps=3, out=tmp_path / "second")
    whole = runs.train(dataclasses.replace(recipe, out=tmp_path / "whole"))

    loop, steps = runs.loop(recipe), 0

    def stopping(*args):
        nonlocal steps
        steps += 1
        if steps == 3:
            raise KeyboardInterrupt
        return type(loop).take_step(loop, *args)
    monkeypatch.setattr(loop, "take_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    if what == "gone":
        shutil.rmtree(one)
    elif what == "it alone moved":
        out = tmp_path / "elsewhere" / "again"
        shutil.move(recipe.out, out)
        recipe = dataclasses.replace(recipe, out=out)
    elif what == "moved":
        home = tmp_path / "elsewhere"
        home.mkdir()
        for path in (one, recipe.out):
            path.rename(home / path.name)
        recipe = dataclasses.replace(recipe, init_from=home / one.name, out=home / recipe.out.name)
    runs.assert_same(runs.train(recipe), whole)


@pytest.mark.slow
def test_damaged_checkpoints_lead_back_to_the_first_weights_not_to_random_ones(first, recipe, runs, tmp_path):
    recipe = recipe(init_from=first())
    whole = runs.train(dataclasses.replace(recipe, out=tmp_path / "whole"))
    out = runs.train(dataclasses.replace(recipe, out=tmp_path / "again"))
    (out / "last.pt").unlink()
    for path in out.glob("checkpoint*.pt"):
        path.write_bytes(b"damaged")
    for name in ("log.csv", "val.csv"):
        (out / name).unlink()
    with pytest.warns(UserWarning, match="damaged|cannot be read|going on from"):
        runs.train(dataclasses.replace(recipe, out=out))
    assert runs.same_tensors(runs.weights(out), runs.weights(whole))


def test_a_run_is_not_resumed_from_other_first_weights(first, recipe, runs, tmp_path):
    one = first()
    other = shutil.copytree(one, tmp_path / "other")
    runs.train(recipe(init_from=one))
    for init_from, words in ((other, r"\S*/other"), (None, "None")):
        with pytest.raises(InputError, match=rf"init_from was \S*/first, is {words}"):
            runs.train(recipe(init_from=init_from))
    shutil.rmtree(recipe().out)
    runs.trained(recipe())
    with pytest.raises(InputError, match=r"init_from was None, is \S*/first"):
        runs.train(recipe(init_from=one))


@pytest.mark.parametrize(("changes", "words"), [
    ({"method": "supervised"}, "its method is cml, this one's supervised: choose --method cml"),
    ({"num_classes": 5}, "does not fit the network"),
    ({"network": "released"}, "its network is .*this one's released")])
def test_weights_that_do_not_fit_are_refused_before_anything_is_written(first, recipe, runs, changes, words):
    one = first()
    with pytest.raises(InputError, match=rf"--init-from .*: is a run of another method or network; .*{words}"):
        runs.train(recipe(init_from=one, **changes))
    assert not recipe().out.exists()


def test_what_is_no_finished_run_is_refused(first, recipe, runs, tmp_path):
    with pytest.raises(InputError, match="does not exist: give a folder that a train script wrote"):
        runs.train(recipe(init_from=tmp_path / "nothing"))
    one = first()
    (one / "last.pt").unlink()
    with pytest.raises(InputError, match="has no last.pt; give the folder of a finished run"):
        runs.train(recipe(init_from=one))


@pytest.mark.parametrize("renamed", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_test_case_that_the_first_run_was_trained_on_is_refused(first, recipe, runs, phantoms, tmp_path, renamed):
    """By its name, or by its voxels under another one; and through a run in between."""
    one = first("LA")
    data = shutil.copytree(phantoms("LA"), tmp_path / "data")
    name = (data / "train.list").read_text(encoding="utf-8").split()[0]
    assert name in read_content(one).cases["labelled"]
    home = data / "2018LA_Seg_Training Set"
    tested = "other" if renamed else name
    if renamed:
        (home / name).rename(home / tested)
    train = (data / "train.list").read_text(encoding="utf-8").split()[1:]
    between = runs.train(recipe("LA", data_dir=phantoms("LA"), out=tmp_path / "between", init_from=one, labeled=1))
    assert set(read_content(between).cases["labelled before"]) == set(read_content(one).cases["labelled"])
    (data / "train.list").write_text("\n".join(train), encoding="utf-8")
    (data / "test.list").write_text(tested, encoding="utf-8")
    for start in (one, between):
        with pytest.raises(InputError, match=f"--init-from: .* 1 of the 1 test case, {tested}; take them out"):
            runs.train(recipe("LA", data_dir=data, init_from=start))
    assert not recipe("LA").out.exists()
    runs.train(recipe("LA", data_dir=data))     # from random weights it may


def test_initial_weights_of_which_nobody_knows_what_they_were_trained_on_are_said(first, recipe, runs, capsys):
    one = first("LA")
    (one / "data.json").unlink()
    second = runs.train(recipe("LA", init_from=one, out=one.with_name("second")))
    runs.loop(recipe("LA", init_from=second, out=one.with_name("third")))
    assert capsys.readouterr().out.count("whether test cases of this run were trained on there is not known") == 2
    trained = load_run(second, device="cpu")
    trained.check_cases(trained.names("test"))
    assert f"whether {one}, which it was started from, was trained on these cases is not known" in (
        capsys.readouterr().out)


@pytest.mark.slow
def test_a_run_is_not_tested_on_what_its_first_weights_were_trained_on(first, recipe, runs):
    one = first("LA")
    content = read_content(runs.train(recipe("LA", init_from=one, labeled=1)))
    later = next(name for name in read_content(one).cases["labelled"] if name not in content.cases["labelled"])
    shape, image, _ = content.cases["labelled before"][later]
    scan = scans.Scan(later, torch.zeros(1, *shape), None, (tuple(shape), image, None))
    assert content.finder()(scan) == "labelled"
    assert content.finder()(dataclasses.replace(scan, name="renamed")) == "labelled"


def test_a_run_is_called_after_the_one_it_starts_from(recipe, tmp_path):
    import train_ACDC
    plain = dataclasses.replace(train_ACDC.PRESETS["mini"], data_dir=tmp_path)
    named = dataclasses.replace(plain, init_from=tmp_path / "model" / "one")
    assert named.folder(train_ACDC.PRESETS).name == f"{plain.folder(train_ACDC.PRESETS).name}_init_fromone"
    assert "init_from" not in plain.fields() and isinstance(named, Recipe)
