"""The ramp against the values that methods.md gives for the released codes."""
import math

import pytest
import torch

from method import Batch
from methods.ramps import ramp, sigmoid_ramp_up


def at(step, steps, **options):
    return ramp(Batch(None, None, None, step, steps, torch.Generator()), **options)


def test_it_rises_from_exp_minus_5_to_1_and_stays_there():
    assert [sigmoid_ramp_up(t) for t in (-1, 0, 0.5, 1, 2)] == pytest.approx(
        [0.006737947, 0.006737947, math.exp(-1.25), 1, 1], rel=1e-6)


@pytest.mark.parametrize(("step", "share", "expected"), [
    (0, 1.0, 0.0067379), (50, 1.0, 0.2865048), (100, 1.0, 1.0), (20, 0.4, 0.2865048), (40, 0.4, 1.0), (99, 0.4, 1.0),
    (99, 2.0, math.exp(-5 * 0.505 ** 2))])
def test_without_stairs_it_follows_the_step_over_its_share_of_training(step, share, expected):
    assert at(step, 100, share=share) == pytest.approx(expected, rel=1e-5)


def test_a_ramp_without_length_is_1():
    assert at(0, 100, share=0.0) == at(0, 0) == at(30, 100, share=0, stairs=True) == 1


def test_stairs_last_150_iterations_and_end_below_1():
    """The last stairs of methods.md 1.7: r of 39/40 and of 199/200."""
    assert at(0, 6_000, stairs=True) == at(149, 6_000, stairs=True) == sigmoid_ramp_up(0)
    assert at(150, 6_000, stairs=True) == at(299, 6_000, stairs=True) == sigmoid_ramp_up(1 / 40)
    assert at(5_999, 6_000, stairs=True) == pytest.approx(0.99688, abs=5e-6)
    assert at(29_999, 30_000, stairs=True) == pytest.approx(0.999875, abs=5e-7)


def test_a_counter_that_is_one_ahead_changes_stair_one_iteration_earlier():
    """MC-Net on ACDC reaches 1 in its very last iteration."""
    assert at(149, 6_000, stairs=True, offset=1) == sigmoid_ramp_up(1 / 40)
    assert at(148, 6_000, stairs=True, offset=1) == sigmoid_ramp_up(0)
    assert at(29_999, 30_000, stairs=True, offset=1) == 1
    assert at(5_999, 15_000, share=0.4, stairs=True, offset=1) == 1


def test_without_stairs_the_counter_has_no_say():
    assert at(10, 100, offset=1) == at(10, 100)
