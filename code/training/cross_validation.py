"""Cross-validation on own data: the runs of the folds, one after the other, each a run like any other."""
import math
from dataclasses import replace

from dataloaders.folds import divided, fold_folder, fold_number, write_folds
from dataloaders.own import Own
from dataloaders.scans import read_check_sum
from evaluation.pooled import is_folds
from imaging.cases import in_shell
from runtime.errors import InputError, hours_in_words
from runtime.ranks import Ranks
from training.checkpoints import is_finished, place_of
from training.fit import train
from training.hours import fitted, stage_seconds


def start(recipe):
    """Train a recipe: one run, or with its `folds` one after the other -> the run's folder, or that of all folds."""
    if not (recipe.folds or recipe.fold):
        data = Own(recipe)
        home = train(fitted(recipe, data), data)
        Ranks().say(f"next: python code/test_own.py --run {in_shell(home)}" if data.listed("test") else
                    f"next: python code/predict.py --run {in_shell(home)} --input new_scans --output maps")
        return home
    recipes = of_folds(recipe)
    train_in_turn(recipes)
    home = recipe.out if recipe.folds else recipe.out.parent
    Ranks().say(("" if recipe.folds else "when all folds are trained, test them\n")
                + f"next: python code/test_own.py --run {in_shell(home)}")
    return recipe.out


def of_folds(recipe, labels=None):
    """The recipes of a recipe's `folds`, or of its one `fold`; new cases are added to folds.json.

    labels: of each fold; by default as many as the recipe asks for, or all that the fold leaves.
    """
    home = recipe.out.parent if recipe.fold else recipe.out
    if (home / "config.json").exists():
        raise InputError(f"{home}: is the folder of a single run, and test_own.py would test that one; give the folds "
                         "another --out")
    data = Own(recipe)
    labelled = data.labelled(data.listed("train"))
    count = recipe.folds or fold_number(recipe.fold)[1]
    numbers = divided(recipe.data_dir, labelled, count)
    check_twins(data, numbers)
    if Ranks().main:
        write_folds(recipe.data_dir, numbers, count)
    recipes = []
    for number in range(1, count + 1):
        fold = f"{number}/{count}"
        if recipe.fold in (None, fold):
            left = sum(other != number for other in numbers.values())
            asked = labels or (left if recipe.labeled == len(labelled) else recipe.labeled)
            if asked > left:
                raise InputError(f"{'--budget' if labels else '--labeled'} {asked}: without the cases of fold {fold}, "
                                 f"{left} labelled ones are left to train on; choose no more, or more --folds")
            out, first = recipe.out if recipe.fold else recipe.out / fold_folder(fold), recipe.init_from
            if first and is_folds(first):
                first = first / fold_folder(fold)       # the one that was not trained on this fold's cases either
            recipes.append(replace(recipe, fold=fold, folds=None, budget=(), labeled=asked, out=out,
                                   init_from=first).check())
    return recipes


def check_twins(data, numbers):
    """InputError where two names of one scan are in different folds: one would be tested on what it learnt."""
    sums = {}
    for name in numbers:
        voxels = read_check_sum(data.path_of(name))
        twin = name if voxels is None else sums.setdefault(voxels, name)
        if numbers[twin] != numbers[name]:
            raise InputError(f"{data.path_of(name)}: has the voxels of {twin}, and is in fold {numbers[name]}, {twin} "
                             f"in {numbers[twin]}: a network would be tested on what it was trained on; take one of "
                             "the two out of the scans, and prepare the folder again")


def train_in_turn(recipes):
    """Train each, one after the other; --hours is the time of each."""
    if recipes[0].hours is not None:
        recipes = equally_long(recipes)
    if len(recipes) > 1:
        tell_hours(recipes)
    for place, recipe in enumerate(recipes, 1):
        if len(recipes) > 1:
            Ranks().say(f"\nrun {place} of {len(recipes)}")
        train(recipe, Own(recipe))


def equally_long(recipes):
    """The recipes with the steps of one that has begun, or with those that the slowest method has time for."""
    begun = {recipe.out: fitted(recipe, Own(recipe)) for recipe in recipes if (recipe.out / "config.json").exists()}
    if begun:
        first = next(iter(begun.values()))
    else:
        methods = list({recipe.method: recipe for recipe in recipes}.values())
        slowest = max(methods, key=seconds_of_run) if len(methods) > 1 else methods[0]
        first = fitted(slowest, Own(slowest))
    return [begun.get(recipe.out) or replace(recipe, pre_steps=first.pre_steps, self_steps=first.self_steps)
            for recipe in recipes]


def seconds_of_run(recipe):
    """How long all steps of a run take, by three timed ones of each stage."""
    return sum(map(math.prod, stage_seconds(recipe, Own(recipe))))


def tell_hours(recipes):
    """Say before the first of several runs starts how long those take that are not finished, by three timed steps."""
    left, stages, hours = [recipe for recipe in recipes if not is_finished(recipe.out)], {}, 0
    for recipe in left:
        if recipe.method not in stages:
            stages[recipe.method] = stage_seconds(recipe, Own(recipe))
        hours += seconds_left(stages[recipe.method], *place_of(recipe.out)) / 3600
    Ranks().say(f"{len(recipes)} runs, {len(recipes) - len(left)} of them finished"
                + (f"; the others take about {hours_in_words(hours)} without validation" if left else ""))


def seconds_left(stages, stage, step):
    """Seconds that a run still takes from this step of this stage on; stages: [(steps, seconds per step)] of all."""
    return sum(map(math.prod, stages[stage:])) - (step * stages[stage][1] if stage < len(stages) else 0)
