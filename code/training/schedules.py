"""The learning rate at each step."""
import math

POLY_POWER = 0.9        # of the polynomial schedule                                                [C]


def learning_rate(schedule, base, step, steps, drop_every=1 / 6):
    """The rate at `step` (from 0) of `steps`: 'constant', 'step' or 'poly'.

    drop_every: steps after which the step schedule divides the rate by ten; below 1, a share of `steps`.
    """
    if schedule == "constant":
        return base
    if schedule == "step":
        interval = drop_every if drop_every >= 1 else drop_every * steps
        return base * 0.1 ** math.floor(step / interval + 1e-9)
    if schedule == "poly":
        return base * (1 - step / steps) ** POLY_POWER
    raise ValueError(f"schedule {schedule!r} is unknown: choose constant, step or poly")


def rate_at(recipe, stage, step):
    """The rate at a stage's `step`, counted from 0.

    In 'matched', a method of one stage has at each step the rate that methods of two stages have: pre_schedule for the
    first pre_steps, then self_schedule from its start. Where both are 'poly', one polynomial covers all steps [O].
    """
    schedules, pre, steps = (recipe.pre_schedule, recipe.self_schedule), stage.name == "pre", stage.steps
    if recipe.protocol == "matched" and steps == recipe.pre_steps + recipe.self_steps and set(schedules) != {"poly"}:
        pre = step < recipe.pre_steps
        step, steps = (step, recipe.pre_steps) if pre else (step - recipe.pre_steps, recipe.self_steps)
    return learning_rate(schedules[not pre], recipe.lr, step, steps, recipe.drop_every)
