"""`--protocol original` against table 3.0 of the specification, written out a second time, and on the command line."""
import dataclasses
import itertools
import json

import pytest

import train_ACDC
import train_BraTS
import train_LA
from methods import protocols, registry
from runtime.errors import InputError
from training.recipe_options import command_line

SCRIPTS = {"LA": train_LA, "ACDC": train_ACDC, "BraTS2019": train_BraTS}

# method: "labelled+unlabelled, pre+self in thousands, schedule[, rate]" on LA | ACDC | BraTS; * = no published code
TABLE = {
    "supervised": "4, 0+6, step | 24, 0+30, poly | 2, 0+30, poly",
    "mean_teacher": "2+2, 0+6, step * | 12+12, 0+30, poly | 2+2, 0+30, poly",
    "ua_mt": "2+2, 0+6, step | 12+12, 0+30, poly | 2+2, 0+30, poly",
    "sassnet": "2+2, 0+6, step | 12+12, 0+30, poly * | 2+2, 0+6, step *",
    "dtc": "2+2, 0+6, step | 12+12, 0+30, poly * | 2+2, 0+6, step *",
    "urpc": "2+2, 0+6, step * | 12+12, 0+30, poly | 2+2, 0+30, poly, 0.1 *",
    "mc_net": "2+2, 0+15, constant | 12+12, 0+30, constant | 2+2, 0+15, constant *",
    "ss_net": "2+2, 0+15, step | 12+12, 0+30, constant | 2+2, 0+15, step *",
    "mcf": "2+2, 0+6, step | 12+12, 0+30, poly * | 2+2, 0+6, step *",
    "dan": "2+2, 0+6, step * | 12+12, 0+30, poly | 2+2, 0+30, poly",
    "ict": "2+2, 0+6, step * | 12+12, 0+30, poly | 2+2, 0+30, poly",
    "em": "2+2, 0+6, step * | 12+12, 0+30, poly | 2+2, 0+30, poly",
    "bcp": "4+4, 2+15, step | 12+12, 10+30, constant | 4+4, 10+30, step *",
    "cml": "4+4, 2+15, step | 12+12, 10+30, constant | 4+4, 10+30, poly *",
    "cps": "4+4, 2+15, step * | 12+12, 10+30, constant * | 4+4, 10+30, poly *",
    "cfl": "4+4, 2+15, step * | 12+12, 10+30, constant * | 4+4, 10+30, poly *",
    "cml_plus": "4+4, 2+15, step * | 12+12, 10+30, constant * | 4+4, 10+30, poly *",
}
CELLS = list(itertools.product(TABLE, SCRIPTS))


def test_the_table_knows_every_method_of_the_specification():
    assert set(protocols.TABLE) == set(TABLE)


@pytest.mark.parametrize(("method", "dataset"), CELLS)
def test_the_paper_preset_takes_all_of_its_cell(method, dataset):
    text = TABLE[method].split(" | ")[list(SCRIPTS).index(dataset)]
    batch, steps, schedule, *rate = text.removesuffix(" *").split(", ")
    preset = SCRIPTS[dataset].PRESETS["paper"]
    recipe = dataclasses.replace(preset, method=method, protocol="original")
    changed = dataclasses.replace(recipe, **protocols.changes(recipe))
    labelled, *unlabelled = map(int, batch.split("+"))
    assert (changed.labeled_batch, changed.unlabeled_batch) == (labelled, *(unlabelled or [preset.unlabeled_batch]))
    assert (changed.pre_steps, changed.self_steps) == tuple(1000 * int(part) for part in steps.split("+"))
    assert changed.self_schedule == schedule and changed.lr == float(rate[0] if rate else "0.01")
    assert changed.pre_schedule == ("poly" if (method, dataset) in itertools.product(
        ("cml", "cps", "cfl", "cml_plus"), ["BraTS2019"]) else preset.pre_schedule if changed.pre_steps == 0
        else "constant")
    assert changed.drop_every == 2_500
    note = protocols.note(changed)
    assert (note is None) != text.endswith("*")
    assert note is None or (method in note and dataset in note and "no published code" in note and "\n" not in note)


@pytest.mark.parametrize(("method", "dataset"), CELLS)
def test_short_presets_keep_their_batch_and_steps_and_scale_the_drops(method, dataset):
    for name, preset in SCRIPTS[dataset].PRESETS.items():
        if name == "paper":
            continue
        recipe = dataclasses.replace(preset, method=method, protocol="original")
        values = protocols.changes(recipe)
        assert not {"labeled_batch", "unlabeled_batch", "pre_steps", "self_steps"} & set(values)
        full = dataclasses.replace(SCRIPTS[dataset].PRESETS["paper"], method=method, protocol="original")
        full = dataclasses.replace(full, **protocols.changes(full))
        assert (values["self_schedule"], values["lr"]) == (full.self_schedule, full.lr)
        if full.self_schedule == "step":
            assert values["drop_every"] == pytest.approx(2_500 / full.self_steps)


@pytest.mark.parametrize("dataset", SCRIPTS)
@pytest.mark.parametrize("preset", ["paper", "mini"])
def test_matched_changes_nothing(dataset, preset):
    recipe = SCRIPTS[dataset].PRESETS[preset]
    for method in TABLE:
        assert protocols.changes(dataclasses.replace(recipe, method=method)) == {}
        assert protocols.note(dataclasses.replace(recipe, method=method)) is None


def test_a_method_without_a_row_is_refused_in_one_line():
    recipe = dataclasses.replace(train_LA.PRESETS["paper"], method="mine", protocol="original")
    with pytest.raises(InputError, match="--protocol original.*--method mine.*--protocol matched") as error:
        protocols.changes(recipe)
    assert "\n" not in str(error.value)


# ---- on the command line ---------------------------------------------------------------------------------------


def line(dataset, *args):
    return command_line(SCRIPTS[dataset].PRESETS, "", list(args))


def test_the_protocol_changes_the_defaults_and_typed_options_win():
    recipe = line("LA", "--method", "mean_teacher", "--protocol", "original")
    assert (recipe.labeled_batch, recipe.pre_steps, recipe.self_steps, recipe.self_schedule) == (2, 0, 6_000, "step")
    typed = line("LA", "--method", "mean_teacher", "--protocol=original", "--self-steps", "9000", "--labeled-batch",
                 "4")
    assert (typed.labeled_batch, typed.unlabeled_batch, typed.self_steps) == (4, 2, 9_000)
    matched = line("LA", "--method", "mean_teacher")
    assert (matched.labeled_batch, matched.pre_steps, matched.self_steps) == (4, 2_000, 15_000)


@pytest.mark.parametrize("name", registry.METHODS)
@pytest.mark.parametrize("dataset", SCRIPTS)
def test_the_methods_own_defaults_are_those_of_the_protocol(name, dataset):
    for protocol in ("matched", "original"):
        recipe = line(dataset, "--method", name, "--protocol", protocol)
        assert registry.hyper_of(recipe) == registry.METHODS[name].defaults(dataset, protocol)


def test_the_protocol_is_part_of_the_runs_name_and_what_it_sets_is_not():
    def name(*args):
        return line("LA", *args).folder(train_LA.PRESETS).name
    assert name("--method", "mean_teacher", "--protocol", "original") == "mean_teacher_8_seed1337_original"
    assert name("mini", "--method", "mean_teacher", "--protocol", "original") == (
        "mean_teacher_8_seed1337_mini_original")
    assert name("--method", "mean_teacher", "--protocol", "original", "--lr", "0.1", "--self-steps", "15000") == (
        "mean_teacher_8_seed1337_original_self_steps15000_lr0.1")
    assert name("--method", "mean_teacher") == "mean_teacher_8_seed1337"


def test_a_recommendation_is_announced_in_one_printed_line(capsys):
    line("LA", "--method", "mean_teacher", "--protocol", "original")
    assert capsys.readouterr().out.count("no published code of mean_teacher for LA") == 1
    line("ACDC", "--method", "mean_teacher", "--protocol", "original")
    line("LA", "--method", "mean_teacher")
    assert "published code" not in capsys.readouterr().out


def test_a_run_that_is_repeated_under_another_protocol_or_method_takes_that_ones_defaults():
    preset = train_LA.PRESETS["paper"]
    matched = dataclasses.replace(preset, method="mean_teacher", lr=0.02, seed=5)
    assert protocols.switched(matched, preset, method="cps").lr == 0.02
    original = protocols.switched(matched, preset, protocol="original")
    assert (original.self_steps, original.lr, original.seed) == (6_000, 0.01, 5)
    back = protocols.switched(original, preset, protocol="matched")
    assert (back.self_steps, back.labeled_batch, back.seed) == (15_000, 4, 5)
    other = protocols.switched(original, preset, method="cml")
    assert (other.pre_steps, other.self_steps, other.labeled_batch) == (2_000, 15_000, 4)


def test_a_repeated_run_keeps_its_hyperparameters(tmp_path):
    first = line("LA", "--method", "mean_teacher", "--hyper.consistency", "0.7", "--protocol", "original")
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"dataset": "LA", "recipe": first.complete().to_json()}), encoding="utf-8")
    again = line("LA", "--from-config", str(path), "--seed", "1")
    assert again.hyper.consistency == 0.7 and again.fields() == dataclasses.replace(first, seed=1).fields()


def test_the_oldest_methods_take_the_released_loss_and_stairs_too():
    expected = {"LA": "ce_dsq_fg", "ACDC": "ce_dsq_all", "BraTS2019": "ce_dsq_all"}
    for dataset, loss in expected.items():
        assert registry.METHODS["supervised"].defaults(dataset, "original").supervised == loss
        hyper = registry.METHODS["mean_teacher"].defaults(dataset, "original")
        assert (hyper.supervised, hyper.stairs, hyper.delay) == (loss, True, 1 / 30 if dataset == "ACDC" else 0)
        assert registry.METHODS["mean_teacher"].defaults(dataset).supervised == "eq2"
