"""Do unlabelled scans help on these data, and would more labels? Dice against labels, of supervised and a method.

At each number of labels, both are trained over the folds with the same labelled cases, and tested out of fold.
"""
import itertools
from dataclasses import replace

from dataloaders.own import Own
from evaluation import plots, pooled, tables
from runtime.errors import counted
from runtime.files import write_text
from runtime.ranks import Ranks
from training.cross_validation import of_folds, train_in_turn
from training.trained import load_run

DEFAULT_FOLDS = 4           # without --folds
BASELINE = "supervised"
SEMI = "cml_plus"   # in the place of a method that is the baseline itself


def compare_labels(recipe):
    """Train and test what is not there yet, then write budget.csv, .md and .png -> the folder of all."""
    ranks, recipe = Ranks(), replace(recipe, folds=recipe.folds or DEFAULT_FOLDS)
    if recipe.method == BASELINE:
        recipe = replace(recipe, method=SEMI, hyper=None)
    groups = {}
    for labels, method in itertools.product(recipe.budget, (BASELINE, recipe.method)):
        own = replace(recipe, method=method, hyper=recipe.hyper if method == recipe.method else None,
                      out=recipe.out / f"{method}_{labels}")
        groups[method, labels] = of_folds(own, labels)
    for key in [key for key, recipes in groups.items() if key[0] != BASELINE
                and not all(Own(one).split().unlabelled for one in recipes)]:
        ranks.say(f"{key[0]} with {key[1]} labels is left out: no unlabelled scan remains in some fold")
        del groups[key]
    train_in_turn([recipe for recipes in groups.values() for recipe in recipes])
    results = {key: results_of(recipes[0].out.parent, recipe.device) for key, recipes in groups.items()}
    if ranks.main:
        present_budget(results, recipe)
    ranks.wait()
    return recipe.out


def results_of(folds, device):
    """The pooled rows of a folder of folds, as they were written where they are there."""
    options = pooled.OwnOptions(run=folds, device=device)
    return pooled.known(options) or pooled.test_folds(options, load_run, Own.dataset)


def present_budget(results, recipe):
    """One table and one picture of {(method, labels): rows}."""
    absent = tables.absent_classes([row for rows in results.values() for row in rows])
    cells = {key: pooled.mean_interval(rows, absent) for key, rows in results.items()}
    lines = []
    for labels in recipe.budget:
        line = [str(cells.get((method, labels), "–")) for method in (BASELINE, recipe.method)]
        if (recipe.method, labels) in results:
            points, p = tables.paired(results[recipe.method, labels], results[BASELINE, labels])
            line += [f"{points:+.2f}", f"{p:.3g}"]
        else:
            line += ["–", "–"]
        lines.append([counted(labels, "label"), *line])
    text = tables.markdown(lines, [f"{BASELINE}, Dice (%)", f"{recipe.method}, Dice (%)", "Δ", "p (Wilcoxon)"])
    whom = "patients" if any(row.get("patient") for rows in results.values() for row in rows) else "cases"
    cases = len({row["case"] for rows in results.values() for row in rows})
    note = (f"{cases} cases, each by the one of {recipe.folds} folds that was not trained on it; preset "
            f"{recipe.preset}, {100 * pooled.CONFIDENCE:.0f} % bootstrap intervals over {whom}, one seed; p is paired "
            f"over {whom}.")
    write_text(recipe.out / "budget.md", f"{text}\n\n{note}\n")
    rows = ["method,labels,cases,dice,low,high"] + [
        f"{method},{labels},{len(pooled.case_dice(results[method, labels]))},"
        + ",".join(f"{value:.4f}" for value in cell) for (method, labels), cell in cells.items()]
    write_text(recipe.out / "budget.csv", "\n".join(rows) + "\n")
    curves = {method: {labels: cells[method, labels] for labels in recipe.budget if (method, labels) in cells}
              for method in (BASELINE, recipe.method)}
    plots.against_labels(recipe.out / "budget.png", curves)
    print(f"\n{text}\n\n{note}\n\nwrote {recipe.out / 'budget.md'}, budget.csv, budget.png")
