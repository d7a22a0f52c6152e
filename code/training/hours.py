"""--hours: a schedule that fits into a time, by three timed steps of each stage."""
import math
import time
from dataclasses import replace

from runtime.ranks import Ranks
from training.fit import Fit
from training.logbook import TIMED
from training.recipe import load_recipe
from training.run_folder import RunFolder

SHARE = 0.9     # of the time is for steps, the rest for reading, validation and checkpoints


def fitted(recipe, data):
    """The recipe with no more steps than fit into its `hours`; with those of its run, if that has begun."""
    if recipe.hours is None:
        return recipe
    if (recipe.out / "config.json").exists():
        begun = load_recipe(recipe.out, type(recipe))
        return replace(recipe, pre_steps=begun.pre_steps, self_steps=begun.self_steps)
    stages = stage_seconds(recipe, data)
    share = min(1, SHARE * 3600 * recipe.hours / sum(map(math.prod, stages)))
    pre, later = (max(int(share * steps), min(steps, 1)) for steps in (recipe.pre_steps, recipe.self_steps))
    seconds = ", ".join(f"{one:.2g}" for _, one in stages)
    Ranks().say(f"--hours {recipe.hours:g}: a step of {recipe.method} takes {seconds} s; "
                f"{pre} + {later} of {recipe.pre_steps} + {recipe.self_steps} steps are taken")
    return replace(recipe, pre_steps=pre, self_steps=later)


def stage_seconds(recipe, data):
    """[(steps, seconds per step)] of the stages of a recipe, as the slowest process has them."""
    complete = recipe.complete()
    fit = Fit(complete, data, RunFolder(complete.out, complete))
    return [(stage.steps, max(Ranks().gather([seconds_of(fit, index)]))) for index, stage in enumerate(fit.stages)]


def seconds_of(fit, index):
    """How long the last of TIMED steps of a stage takes, of fewer where it is shorter; `fit` is of no further use."""
    stage = fit.stages[index]
    fit.stage, begun = index, time.monotonic()
    fit.method.begin(stage)
    streams = fit.streams()
    for fit.step in range(min(TIMED, stage.steps)):
        begun = time.monotonic()
        fit.take_step(streams, streams[fit.step])()
    return time.monotonic() - begun
