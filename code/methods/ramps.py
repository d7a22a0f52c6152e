"""Weights that grow during training."""
import math

STAIR = 150         # iterations for which the released methods keep a weight                       (SSL4MIS, UA-MT) [C]


def sigmoid_ramp_up(progress):
    """exp(-5 (1 - progress)^2) with progress clipped to [0, 1] (Laine & Aila 2017)."""
    return math.exp(-5 * (1 - min(max(progress, 0.0), 1.0)) ** 2)


def ramp(batch, share=1.0, stairs=False, offset=0):
    """The ramp's value at the batch's step -> float in [exp(-5), 1]; 1 from the start if it has no length.

    batch: a `method.Batch`, for its step and steps; share: of training that the ramp takes; stairs: the weight changes
    every 150 iterations, as in the released codes ('original'), not at each step; offset: steps by which a released
    code advances its counter before it asks for the stair (MC-Net, and SS-Net on volumes: 1).
    """
    length = share * batch.steps
    if length == 0:
        return 1.0
    step = STAIR * ((batch.step + offset) // STAIR) if stairs else batch.step
    return sigmoid_ramp_up(step / length)


def ramped(hyper, batch, offset=0):
    """The weight of a method's second term at the batch's step: `hyper.consistency`, its ceiling, times the ramp."""
    return hyper.consistency * ramp(batch, hyper.ramp_share, hyper.stairs, offset)
