"""What methods with a moving-average teacher share."""
import torch

from method import Method

INPUT_NOISE, NOISE_LIMIT = 0.1, 0.2     # standard deviation and bound of a teacher's input noise   (UA-MT, SSL4MIS) [C]
DECAY = 0.99                        # of the moving average                           (UA-MT, SSL4MIS, BCP) [C]


class StudentTeacher(Method):
    """student, teacher: x -> (logits, feature). The student learns and is tested, the teacher is shown beside it."""

    def __init__(self, student, teacher, hyper):
        super().__init__(student)
        self.teacher, self.hyper = teacher.requires_grad_(False), hyper

    def predict(self, x):
        return self.predicted(x, ("teacher",))

    def predicted(self, x, views=()):
        networks = {"student": self.networks, "teacher": self.teacher}
        return {view: network(x)[0].softmax(1) for view, network in networks.items() if view in ("student", *views)}


@torch.no_grad()
def moving_average(teacher, student, step, decay=DECAY, warm_up=True, buffers=False):
    """teacher <- a teacher + (1 - a) student in place, of two modules that are alike; step counts from 0.

    a = min(1 - 1 / (step + 1), decay): at step 0 the teacher becomes a copy of the student (UA-MT, SSL4MIS) [C];
    without `warm_up`, a = decay from the first step [C]. Parameters alone; with `buffers`, running statistics as well.
    """
    share = min(1 - 1 / (step + 1), decay) if warm_up else decay
    pairs = list(zip(teacher.parameters(), student.parameters(), strict=True))
    if buffers:
        pairs += zip(teacher.buffers(), student.buffers(), strict=True)
    for mean, new in pairs:
        if mean.is_floating_point():
            mean.lerp_(new, 1 - share)
        else:
            mean.copy_(new)         # a counter


def bounded_noise(g):
    """Standard normal numbers of any shape -> noise of standard deviation 0.1, clipped to [-0.2, 0.2]."""
    return (g * INPUT_NOISE).clamp(-NOISE_LIMIT, NOISE_LIMIT)
