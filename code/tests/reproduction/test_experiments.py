"""The experiments against the published tables, and their commands against the train scripts."""
import json
import shlex
from collections import Counter
from dataclasses import replace

import pytest

from evaluation import published
from methods import registry
from reproduction import runs
from reproduction.experiments import APPEARANCE, PLACES, fraction, places_of
from runtime.errors import InputError
from training.datasets import DATASETS
from training.recipe_options import command_line


def rows(name):
    return PLACES[name].rows


def test_every_cell_of_tables_1_to_3_is_there():
    for dataset, number in published.TABLE_NUMBERS.items():
        cells = {(row.experiment.method, row.experiment.labeled): row.paper for row in rows(f"table{number}")}
        assert cells == {(method, labeled): values for method, ratios in published.TABLES[dataset].items()
                         for labeled, values in ratios.items()}
        assert len(rows(f"table{number}")) == 19
        assert {row.experiment.dataset for row in rows(f"table{number}")} == {dataset}
        assert not any(row.experiment.changes for row in rows(f"table{number}"))


def test_every_row_of_table_4_and_every_point_of_the_figures_is_there():
    terms = {(row.experiment.dataset, row.experiment.labeled, dict(row.experiment.changes).get("lambda_dis") != 0,
              dict(row.experiment.changes).get("lambda_unsup") != 0): row.paper for row in rows("table4")}
    assert terms == {(dataset, {"LA": 8, "ACDC": 7}[dataset], *key): values
                     for dataset, table in published.TABLE4.items() for key, values in table.items()}
    assert [(row.experiment.dataset, row.experiment.labeled, row.experiment.method) for row in rows("figure6")] == [
        (dataset, labeled, method) for dataset, labeled in (("LA", 8), ("ACDC", 7), ("BraTS2019", 25))
        for method in ("cps", "cfl", "cml")]
    assert [row.experiment.method for row in rows("figure2")] == ["mean_teacher", "cps", "cml"]
    points = {(row.experiment.dataset, *row.title.split(": ")[1].split(" = ")) for row in rows("figure5")}
    assert points == {(dataset, symbol, value) for dataset in ("LA", "ACDC", "BraTS2019")
                      for symbol, values in (("λ1", "0.1 0.2 0.5 1"), ("λ2", "0.1 0.2 0.5 1"), ("β", "1/3 1/2 2/3 5/6"))
                      for value in values.split()}


def test_each_point_of_figure_5_changes_one_value_and_the_chosen_one_none():
    for row in rows("figure5"):
        dataset, symbol = row.experiment.dataset, row.title.split(": ")[1].split(" = ")[0]
        name = {"λ1": "lambda_unsup", "λ2": "lambda_dis", "β": "beta"}[symbol]
        recipe = runs.Run(row.experiment, "paper", 1337).recipe
        shown = row.title.split(" = ")[1]
        assert (fraction(recipe.beta) if name == "beta" else f"{getattr(recipe, name):g}") == shown
        assert bool(row.experiment.changes) == (getattr(recipe, name) != published.CHOSEN[dataset][name])


def test_the_chosen_values_are_the_recipes():
    for dataset, methods in published.TABLES.items():
        for method in methods:
            chosen = published.chosen(dataset, method)
            fields = replace(DATASETS[dataset].presets["paper"], method=method).fields()
            assert {name: fields[name] for name in chosen} == chosen
            assert {name for name in fields if name.startswith("hyper.")} <= {*chosen}


def test_a_run_that_answers_several_places_exists_once():
    cml = next(row.experiment for row in rows("table1") if row.title == "CML, 8")
    assert places_of(cml, "paper") == ["table1", "table4", "figure2", "figure4", "figure5", "figure6"]
    every = [run for name in PLACES for run in runs.runs_of([name])]
    once = runs.runs_of()
    assert len(set(once)) == len(once) == len(set(every)) < len(every)
    names = Counter(run.name for run in once)
    assert set(names.values()) == {1}


def test_the_parts_of_cml_plus_make_every_combination_and_none_is_trained_twice():
    """Trained: with and without both orders and perturbed, always averaged; each gives the row without the average."""
    combinations = {}
    for row in rows("short_parts")[1:]:
        hyper = dict(row.experiment.changes)
        assert set(hyper.values()) <= {False} and "hyper.averaged" not in hyper
        assert runs.Run(row.experiment, "short", 1337).recipe.hyper.averaged
        on = {part.removeprefix("hyper.") for part in ("hyper.both_orders", "hyper.perturbed") if part not in hyper}
        combinations[row.title] = on | (set() if row.last else {"averaged"})
    assert combinations == {
        "CML+ (ours)": {"both_orders", "averaged", "perturbed"},
        "both orders alone": {"both_orders"}, "averaged alone": {"averaged"}, "perturbed alone": {"perturbed"},
        "without both orders": {"averaged", "perturbed"}, "without averaged": {"both_orders", "perturbed"},
        "without perturbed": {"both_orders", "averaged"}}
    assert len(runs.runs_of(["short_parts"])) == 1 + 4


def test_each_command_trains_the_runs_own_recipe():
    """The train script, given the command, arrives at the recipe, and at the folder's name: for every method, and for
    every set of options of each preset.
    """
    shown = {}
    for run in runs.runs_of():
        shown.setdefault(run.experiment.method, run)
        shown.setdefault((run.dataset, run.preset, *(name for name, _ in run.experiment.changes)), run)
    for run in set(shown.values()):
        presets = DATASETS[run.dataset].presets
        _, script, *options = shlex.split(run.command)
        recipe = command_line(presets, "", options)
        assert script == f"code/{DATASETS[run.dataset].train.__name__}.py"
        assert recipe.fields() == run.recipe.fields()
        assert f"{run.dataset}/{recipe.folder(presets).name}" == run.name


def test_every_experiment_is_one_that_its_method_runs():
    for run in runs.runs_of() + runs.runs_of(preset="short") + runs.runs_of(preset="mini"):
        registry.check(run.recipe.check())
    assert set(APPEARANCE) == set(registry.METHODS)


def test_a_fully_labelled_row_takes_what_the_preset_leaves():
    full = next(row.experiment for row in rows("table1") if row.experiment.labeled == 80)
    assert [runs.Run(full, preset, 1).labeled for preset in ("paper", "short", "mini")] == [80, 72, 72]


COMMITTED = [config.parent for root in runs.RESULTS for dataset in ("ACDC", "LA")
             for config in sorted((root / dataset).glob("*/config.json"))]


def test_a_committed_run_is_found_under_its_name_and_complete():
    assert len(COMMITTED) >= 27
    for folder in COMMITTED:
        found = runs.kept(runs.named(f"{folder.parent.name}/{folder.name}"))
        assert found and found.folder == folder, folder


@pytest.mark.parametrize("method", ("cml", "cps"))
def test_a_committed_short_run_has_the_presets_recipe(method):
    """It was run before the preset had a name, spelled out in options."""
    config = json.loads((runs.RESULTS[0] / f"ACDC/{method}_3_seed1337_short/config.json").read_text(encoding="utf-8"))
    run = next(run for run in runs.runs_of(["short_acdc3"]) if run.experiment.method == method)
    held = type(run.recipe).from_json(config["recipe"], "config.json").fields()
    assert held["pre_schedule"] == held["self_schedule"] == "constant"     # so drop_every, a newer field, does nothing
    assert {name: (held[name], value) for name, value in run.recipe.fields().items() if held[name] != value
            and name != "drop_every"} == {"preset": ("mini", "short")}


def test_a_run_may_be_named_with_a_seed_of_its_own():
    run = runs.named("ACDC/cml_7_seed4711_mini_lambda_dis0")
    assert (run.seed, run.experiment.changes) == (4711, (("lambda_dis", 0.0),))
    assert runs.runs_of(["LA/cps_8_seed1337"]) == [next(run for run in runs.runs_of(["figure2"])
                                                        if run.experiment.method == "cps")]


@pytest.mark.parametrize("name", ("CML", "ACDC/cml_7", "ACDC/cml_7_seed1337_huge"))
def test_an_unknown_name_is_refused(name):
    with pytest.raises(InputError, match=f"'{name}' is no experiment: choose of table1, "):
        runs.runs_of([name])
