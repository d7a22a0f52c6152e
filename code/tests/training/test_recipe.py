"""Recipes: the paper's numbers, the command line, the run folder's name, and the way to disk and back."""
import dataclasses
import itertools
import json
from pathlib import Path

import pytest
import torch

import train_ACDC
import train_BraTS
import train_LA
import train_own
from method import Batch
from methods import registry
from runtime.errors import InputError
from runtime.files import ROOT, save_tensors
from training import recipe as recipe_module
from training import recipe_options
from training.recipe import load_recipe


def command_line(presets, description, args):
    """The recipe of a command line, without the run folder that it is given."""
    recipe = recipe_options.command_line(presets, description, args)
    assert recipe.out.is_absolute()
    asked = any(arg.startswith("--out") for arg in args)
    return recipe if asked else dataclasses.replace(recipe, out=None)


SCRIPTS = {"LA": train_LA, "ACDC": train_ACDC, "BraTS2019": train_BraTS}
every_script = pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)

PAPER = {
    "LA": {"network": "vnet", "patch_size": (112, 112, 80), "labeled_batch": 4, "unlabeled_batch": 4, "beta": 2 / 3,
           "lambda_unsup": 1, "lambda_dis": 0.2, "pre_steps": 2_000, "self_steps": 15_000, "labeled": 8,
           "num_classes": 2, "pre_schedule": "constant", "self_schedule": "step", "stride": (18, 18, 4),
           "keep_largest": True, "half_resolution": False, "holdout_test": 0, "eval_every": 200},
    "ACDC": {"network": "unet", "patch_size": (256, 256), "labeled_batch": 12, "unlabeled_batch": 12, "beta": 1 / 2,
             "lambda_unsup": 0.5, "lambda_dis": 0.1, "pre_steps": 10_000, "self_steps": 30_000, "labeled": 7,
             "num_classes": 4, "pre_schedule": "constant", "self_schedule": "constant", "keep_largest": False,
             "eval_every": 200},
    "BraTS2019": {"network": "vnet", "patch_size": (96, 96, 96), "labeled_batch": 4, "unlabeled_batch": 4,
                  "beta": 2 / 3, "lambda_unsup": 1, "lambda_dis": 0.2, "pre_steps": 10_000, "self_steps": 30_000,
                  "labeled": 25, "num_classes": 2, "pre_schedule": "poly", "self_schedule": "poly",
                  "stride": (64, 64, 64), "keep_largest": False, "half_resolution": False, "eval_every": 300},
}
MINI = {
    "LA": {"patch_size": (48, 48, 32), "stride": (24, 24, 16), "labeled_batch": 4, "unlabeled_batch": 4,
           "pre_steps": 200, "self_steps": 800, "half_resolution": True, "holdout_test": 8, "eval_every": 100},
    "ACDC": {"patch_size": (128, 128), "labeled_batch": 6, "unlabeled_batch": 6, "pre_steps": 400,
             "self_steps": 1_200, "eval_every": 100},
    "BraTS2019": {"patch_size": (48, 48, 48), "stride": (24, 24, 24), "labeled_batch": 2, "unlabeled_batch": 2,
                  "pre_steps": 100, "self_steps": 400, "half_resolution": True, "eval_every": 100},
}
COMMON = {"method": "cml", "seed": 1337, "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4, "fusion": "softmax",
          "select_on": "val", "monitor": "none", "in_channels": 1, "amp": False}


@every_script
def test_presets_are_the_published_numbers(script):
    for preset, table in (("paper", PAPER), ("mini", PAPER | {name: PAPER[name] | MINI[name] for name in MINI})):
        recipe = script.PRESETS[preset]
        values = dataclasses.asdict(recipe)
        expected = COMMON | {"eval_every": 200} | table[recipe.dataset]
        assert {name: values[name] for name in expected} == expected


@every_script
def test_the_preset_is_the_first_word_and_paper_when_absent(script):
    for args, preset in (([], "paper"), (["paper"], "paper"), (["mini"], "mini")):
        assert command_line(script.PRESETS, "", args) == script.PRESETS[preset]
    with pytest.raises(InputError, match="'quick'.*paper, mini"):
        command_line(script.PRESETS, "", ["quick"])


@pytest.mark.parametrize(("text", "value"), [("1/2", 0.5), ("2/3", 2 / 3), ("0.25", 0.25)])
def test_beta_takes_fractions(text, value):
    assert command_line(train_LA.PRESETS, "", ["--beta", text]).beta == value


@pytest.mark.parametrize("text", ["half", "1/0"])
def test_what_is_no_number_is_refused_with_the_option(text):
    with pytest.raises(InputError, match="--beta"):
        command_line(train_LA.PRESETS, "", ["--beta", text])


@pytest.mark.parametrize(("change", "words"), [
    ({"lr": "0.01"}, 'lr is "0.01", expected float'), ({"labeled": "7"}, 'labeled is "7", expected int'),
    ({"pre_steps": 4e2}, "pre_steps is 400.0, expected int"), ({"patch_size": 128}, "patch_size is 128,"),
    ({"patch_size": (32, 32, 32)}, "patch_size is .32, 32, 32., expected tuple"), ({"beta": "1/2"}, "beta is"),
    ({"data_dir": None}, "data_dir is null, expected Path"), ({"keep_largest": "False"}, "keep_largest is"),
    ({"self_schedule": "cosine"}, 'self_schedule is "cosine", expected .*constant'), ({"seed": True}, "seed is true"),
    ({"weight_decay": None}, "weight_decay is null"), ({"amp": "True"}, "amp is"), ({"method": "bcpp"}, "method is"),
    ({"eval_every": {100}}, "eval_every is"), ({"hyper": {"decay": 0.9}}, "hyper: unknown fields decay"),
    ({"hyper": 0.9}, "hyper: holds a float"), ({"preset": "my"}, "has preset='my', expected 'mini'")])
def test_what_was_typed_at_the_top_of_a_script_is_of_its_fields_types(change, words):
    """Whatever the options say: other presets, and the run's name, stand on it."""
    presets = train_ACDC.PRESETS | {"mini": dataclasses.replace(train_ACDC.PRESETS["mini"], **change)}
    with pytest.raises(InputError, match=f"preset mini: {words}"):
        command_line(presets, "", ["mini", "--lr", "0.1", "--labeled", "3"])


def test_lists_and_strings_at_the_top_of_a_script_are_taken_as_on_the_command_line(monkeypatch):
    monkeypatch.chdir(ROOT)
    typed = dataclasses.replace(train_ACDC.PRESETS["mini"], patch_size=[32, 32], data_dir="data/ACDC", lr=1)
    recipe = recipe_options.command_line(train_ACDC.PRESETS | {"mini": typed}, "", ["mini"])
    assert recipe.patch_size == (32, 32) and recipe.data_dir == ROOT / "data/ACDC"
    assert recipe.out.name == "cml_7_seed1337_mini"


@pytest.mark.parametrize(("method", "change"), [
    ("ua_mt", {"consistency": "0.1"}), ("bcp", {"average_buffers": 1}), ("mc_net", {"decoders": 2.0})])
def test_what_was_typed_at_the_top_of_a_methods_file_is_of_its_fields_types(method, change):
    recipe = dataclasses.replace(train_ACDC.PRESETS["mini"], method=method)
    recipe = dataclasses.replace(recipe, hyper=dataclasses.replace(recipe.complete().hyper, **change))
    with pytest.raises(InputError, match=f"hyperparameters of --method {method}: {next(iter(change))} is "):
        recipe.check()


def test_only_pairs_need_even_batches():
    assert command_line(train_LA.PRESETS, "", ["--labeled-batch", "3", "--method", "cps"]).labeled_batch == 3


def test_every_field_is_an_option():
    args = ["mini", "--labeled", "4", "--lambda-unsup", "0", "--lambda-dis", "0", "--method", "cml", "--seed", "3",
            "--patch-size", "32", "48", "16", "--half-resolution", "False", "--self-schedule", "poly",
            "--out", "here", "--data-dir", "there", "--holdout-val", "2"]
    assert command_line(train_LA.PRESETS, "", args) == dataclasses.replace(
        train_LA.PRESETS["mini"], labeled=4, lambda_unsup=0.0, lambda_dis=0.0, method="cml", seed=3,
        patch_size=(32, 48, 16), half_resolution=False, self_schedule="poly", out=Path("here").resolve(),
        data_dir=Path("there").resolve(), holdout_val=2)


@every_script
def test_help_names_every_field_and_the_preset(script, capsys):
    with pytest.raises(SystemExit) as stopped:
        command_line(script.PRESETS, script.__doc__, ["mini", "--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0 and script.__doc__.splitlines()[0][:40] in " ".join(text.split())
    fields = {field.name for field in dataclasses.fields(script.PRESETS["mini"])} - {"preset", "hyper"}
    assert [name for name in sorted(fields) if f"--{name.replace('_', '-')}" not in text] == []


def test_a_methods_hyperparameters_are_options_and_part_of_the_name():
    recipe = command_line(train_ACDC.PRESETS, "", ["mini", "--method", "mean_teacher", "--hyper.consistency", "0.3"])
    assert (recipe.hyper.consistency, recipe.hyper.delay) == (0.3, 1 / 30)
    assert recipe.folder(train_ACDC.PRESETS).name == "mean_teacher_7_seed1337_mini_consistency0.3"
    assert {"consistency": 0.3, "delay": 1 / 30}.items() <= recipe.to_json()["hyper"].items()
    assert type(recipe).from_json(json.loads(json.dumps(recipe.to_json())), "here") == recipe
    with pytest.raises(InputError, match="here: hyper: unknown fields warmth"):
        type(recipe).from_json(recipe.to_json() | {"hyper": {"warmth": 1}}, "here")
    with pytest.raises(InputError, match="hyper.consistency"):
        command_line(train_ACDC.PRESETS, "", ["mini", "--hyper.consistency", "0.3"])


@pytest.mark.parametrize(("method", "option", "value", "acting"), [
    ("supervised", "--beta", "0.3", "cml"), ("cps", "--lambda-dis", "0.7", "cfl, cml"),
    ("mean_teacher", "--fusion", "logits", "cps, cfl, cml")])
def test_an_option_that_the_method_does_not_have_is_refused(method, option, value, acting):
    with pytest.raises(InputError, match=f"^{option} {value}: --method {method} has no such option.*{acting}"):
        command_line(train_ACDC.PRESETS, "", ["mini", "--method", method, option, value])


def folder(script, *args):
    return command_line(script.PRESETS, "", args).folder(script.PRESETS)


def test_a_run_folder_has_a_name_that_file_systems_and_people_can_take():
    many = ["--method", "cml_plus", "--hyper.both-orders", "False", "--hyper.perturbed", "False", "--lr", "0.003",
            "--momentum", "0.8", "--weight-decay", "0.001", "--pre-steps", "123", "--self-steps", "4567"]
    names = [folder(train_LA, *many, "--labeled-draw", str(draw)).name for draw in (1, 2)]
    assert all(len(name) <= 100 for name in names) and len(set(names)) == 2
    assert all(name.startswith("cml_plus_8_seed1337_") for name in names)


def test_the_run_folder_is_named_after_the_recipe():
    home = ROOT / "model"
    assert folder(train_LA) == home / "LA/cml_8_seed1337"
    assert folder(train_ACDC, "mini", "--labeled", "3") == home / "ACDC/cml_3_seed1337_mini"
    assert folder(train_BraTS, "--method", "cps", "--seed", "1") == home / "BraTS2019/cps_25_seed1"
    assert folder(train_LA, "mini", "--beta", "1/2") == home / "LA/cml_8_seed1337_mini_beta0.5"
    tagged = folder(train_LA, "--patch-size", "96", "96", "64", "--network", "vnet", "--lambda-dis", "0")
    assert tagged == home / "LA/cml_8_seed1337_patch_size96x96x64_lambda_dis0"


def test_what_does_not_change_the_numbers_does_not_change_the_name():
    args = ["--device", "cpu", "--workers", "0", "--data-dir", "elsewhere", "--monitor", "test",
            "--checkpoint-steps", "5"]
    assert folder(train_LA, *args) == folder(train_LA)
    assert folder(train_LA, "--out", "mine") == Path("mine").resolve()


def test_siblings_never_share_a_folder():
    changes = [["--seed", "1"], ["--labeled", "4"], ["--method", "cfl"], ["--beta", "0.5"], ["--lr", "0.1"],
               ["--lambda-unsup", "0"], ["--lambda-dis", "0"], ["--fusion", "logits"], ["--pre-steps", "5"],
               ["--holdout-val", "4"], ["--select-on", "test"], ["--keep-largest", "False"]]
    assert len({folder(train_LA, preset, *change) for preset in ("paper", "mini") for change in changes}) == 24


@every_script
def test_a_recipe_comes_back_from_json(script, tmp_path):
    recipe = dataclasses.replace(script.PRESETS["mini"], beta=1 / 3, out=tmp_path / "run")
    text = json.dumps(recipe.to_json())
    assert type(recipe).from_json(json.loads(text), "here") == recipe


def test_a_runs_recipe_is_loaded(tmp_path):
    recipe = train_LA.PRESETS["mini"]
    (tmp_path / "config.json").write_text(json.dumps({"dataset": "LA", "recipe": recipe.to_json()}), encoding="utf-8")
    assert load_recipe(tmp_path, train_LA.LARecipe) == recipe


# ---- a run's own configuration -----------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path, monkeypatch):
    """written(args) -> config.json of a mini run of LA in its default folder, below tmp_path."""
    monkeypatch.setattr(recipe_module, "ROOT", tmp_path)

    def write(*args):
        recipe = command_line(train_LA.PRESETS, "", ["mini", *args])
        home = recipe.folder(train_LA.PRESETS)
        home.mkdir(parents=True)
        (home / "config.json").write_text(json.dumps({"dataset": "LA", "recipe": recipe.to_json()}), encoding="utf-8")
        return recipe, home / "config.json"
    return write


def repeated(config, *args):
    return command_line(train_LA.PRESETS, "", ["--from-config", str(config), *args])


def test_a_run_is_repeated_from_its_config(written, tmp_path):
    recipe, config = written("--beta", "0.7", "--lambda-dis", "0", "--patch-size", "32", "48", "16", "--data-dir",
                             "there", "--device", "cpu", "--out", str(tmp_path / "first"))
    again = dataclasses.replace(recipe, out=None)
    assert repeated(config) == repeated(config.parent) == again
    assert command_line(train_LA.PRESETS, "", [f"--from_config={config}"]) == again
    assert repeated(config, "--out", "second") == dataclasses.replace(recipe, out=Path("second").resolve())
    changed = repeated(config, "--seed", "7", "--method", "cps")
    assert changed == dataclasses.replace(again, seed=7, method="cps")
    assert changed.folder(train_LA.PRESETS).name == "cps_8_seed7_mini_patch_size32x48x16_beta0.7_lambda_dis0"


def test_a_finished_run_is_not_repeated_into_itself(written, tmp_path):
    recipe, config = written()
    assert repeated(config) == recipe       # it goes on
    save_tensors(config.parent / "last.pt", {"method": {}})
    with pytest.raises(InputError, match=r"cml_8_seed1337_mini is that run itself and finished.*--out"):
        repeated(config)
    assert repeated(config, "--seed", "7").seed == 7 and repeated(config, "--out", "other").out


@pytest.mark.parametrize("config", sorted((ROOT / "model" / "mini_results").rglob("config.json")),
                         ids=lambda path: str(path.parent.relative_to(ROOT)))
def test_every_published_run_can_be_repeated(config):
    script = SCRIPTS[json.loads(config.read_text(encoding="utf-8"))["dataset"]]
    recipe = command_line(script.PRESETS, "", ["--from-config", str(config)])
    again, first = json.loads(json.dumps(recipe.complete().to_json())), json.loads(config.read_bytes())["recipe"]
    assert {name: again[name] for name in first if name not in recipe.PLUMBING} == {
        name: value for name, value in first.items() if name not in recipe.PLUMBING}
    assert (recipe.protocol, recipe.labeled_draw) == ("matched", 0) and recipe.hyper is None


def test_a_switch_needs_no_value():
    for args in (["--deterministic"], ["--deterministic", "True"], ["--deterministic", "--seed", "1337"]):
        assert command_line(train_LA.PRESETS, "", args).deterministic
    assert not command_line(train_LA.PRESETS, "", ["--keep-largest", "False", "--deterministic"]).keep_largest


@pytest.mark.parametrize("method", registry.METHODS)
def test_one_voxel_is_refused_where_batch_norm_would_be_given_one_value_and_nowhere_else(shallow, method):
    """At 16 x 16, for batches of one, two and four: as much as a step of each stage says."""
    outcomes = set()
    for labelled, unlabelled in itertools.product((1, 2, 4), repeat=2):
        own = train_ACDC.ACDCRecipe(method=method, patch_size=(16, 16), labeled_batch=labelled,
                                    unlabeled_batch=unlabelled)
        try:
            own.check()
            refused = None
        except InputError as error:
            refused = str(error)
        if refused and "one voxel" not in refused:      # it has to be even, say
            continue
        built = registry.method_class(method).build(own.complete()).train()
        x_l, x_u = torch.randn(labelled, 1, 16, 16), torch.randn(unlabelled, 1, 16, 16)
        y_l = torch.randint(4, (labelled, 16, 16))
        z_l = built.of_label and torch.stack([torch.from_numpy(built.of_label(y)) for y in y_l.byte().numpy()])
        batch = Batch(x_l, y_l, x_u, 1, 10, torch.Generator().manual_seed(0), z_l)
        try:
            for stage in built.stages(5, 5):
                list(stage.losses(batch))
            failed = False
        except ValueError as error:
            failed = "more than 1 value per channel" in str(error)
        assert failed == bool(refused), (labelled, unlabelled, refused)
        outcomes.add(failed)
    assert False in outcomes


@pytest.mark.parametrize(("change", "words"), [
    ({"flips": (0, 0)}, "--flips 0 0: .*each once"), ({"flips": (3,)}, "--flips 3"), ({"flips": (-1,)}, "--flips -1"),
    ({"patch_size": (32,)}, "--patch-size 32: expected three numbers, or two"),
    ({"patch_size": (32, 32, 32, 32)}, "--patch-size 32 32 32 32: expected three numbers"),
    ({"keep_largest": (3,)}, "--keep-largest 3: expected classes from 1 to 2, as of --num-classes 3"),
    ({"components": (0,)}, "--components 0: expected classes from 1 to 2"),
    ({"class_names": ("a",)}, "--class-names a: expected 2 names or none")])
def test_options_of_own_data_that_would_do_something_else_are_refused(change, words):
    own = train_own.OwnRecipe(labeled=1, num_classes=3, class_names=("left", "right"))
    assert own.check() is own
    with pytest.raises(InputError, match=words):
        dataclasses.replace(own, **change).check()
