"""What methods with a moving-average teacher share."""
import torch

NOISE, NOISE_LIMIT = 0.1, 0.2       # standard deviation and bound of a teacher's input noise   [UA-MT, SSL4MIS]
DECAY = 0.99                        # of the moving average, once 100 steps have passed         [UA-MT, SSL4MIS]


@torch.no_grad()
def moving_average(teacher, student, step, decay=DECAY):
    """teacher <- a teacher + (1 - a) student in place, a = min(1 - 1 / (step + 1), decay); parameters alone.

    At step 0 the teacher becomes a copy of the student.
    """
    share = min(1 - 1 / (step + 1), decay)
    for mean, new in zip(teacher.parameters(), student.parameters(), strict=True):
        mean.lerp_(new, 1 - share)


def bounded_noise(g):
    """Standard normal numbers of any shape -> noise of standard deviation 0.1, clipped to [-0.2, 0.2]."""
    return (g * NOISE).clamp(-NOISE_LIMIT, NOISE_LIMIT)
