"""Weights that grow during training."""
import math


def sigmoid_ramp_up(progress):
    """exp(-5 (1 - progress)^2) with progress clipped to [0, 1] (Laine & Aila 2017)."""
    return math.exp(-5 * (1 - min(max(progress, 0.0), 1.0)) ** 2)
