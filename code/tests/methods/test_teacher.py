"""Moving averages and bounded noise against values computed by hand."""
import pytest
import torch
from torch import nn

from methods.teacher import bounded_noise, moving_average


def pair():
    """Two modules alike; the teacher's tensors are 0, the student's 1, the counter of batches 0 and 7."""
    teacher, student = (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for _ in range(2))
    with torch.no_grad():
        for value, module in ((0, teacher), (1, student)):
            for tensor in (*module.parameters(), *module.buffers()):
                tensor.fill_(value)
        student[1].num_batches_tracked.fill_(7)
    return teacher, student


def values(tensors):
    return [float(tensor.detach().flatten()[0]) for tensor in tensors]


@pytest.mark.parametrize(("step", "share"), [(0, 0), (1, 0.5), (9, 0.9), (99, 0.99), (500, 0.99)])
def test_the_average_warms_up_and_takes_parameters_alone(step, share):
    teacher, student = pair()
    moving_average(teacher, student, step)
    assert values(teacher.parameters()) == pytest.approx([1 - share] * 4)
    assert values(teacher.buffers()) == [0, 0, 0] and values(student.parameters()) == [1] * 4


def test_without_warm_up_the_decay_holds_from_the_first_step():
    teacher, student = pair()
    moving_average(teacher, student, 0, warm_up=False)
    assert values(teacher.parameters()) == pytest.approx([0.01] * 4)
    moving_average(teacher, student, 1, decay=0.5, warm_up=False)
    assert values(teacher.parameters()) == pytest.approx([0.505] * 4)


def test_buffers_on_request():
    teacher, student = pair()
    moving_average(teacher, student, 0, warm_up=False, buffers=True)
    assert values(teacher.buffers()) == pytest.approx([0.01, 0.01, 7])


def test_the_average_is_in_place_and_without_gradient():
    teacher, student = pair()
    before = list(teacher.parameters())
    assert moving_average(teacher, student, 3) is None
    for old, new in zip(before, teacher.parameters(), strict=True):
        assert old is new and new.grad is None and new.is_leaf


def test_noise_is_a_tenth_and_clipped_at_a_fifth():
    g = torch.tensor([-5.0, -1.0, 0.0, 0.5, 1.9, 2.1])
    torch.testing.assert_close(bounded_noise(g), torch.tensor([-0.2, -0.1, 0.0, 0.05, 0.19, 0.2]))
