"""The order of work on a GPU, run on a CPU: same passes, same bits."""
import pytest
import torch

from cml import CML

pytestmark = pytest.mark.usefixtures("narrow", "no_curves")


@pytest.mark.parametrize("dataset", ["ACDC", "LA"])
def test_components_beside_the_backward_pass_change_no_bit(recipe, runs, monkeypatch, tmp_path, dataset):
    """Weights, momenta and running statistics after three steps, with dropout, are those of the plain order."""
    states, orders = [], []
    for ahead in (False, True):
        order = []
        with monkeypatch.context() as patch:
            patch.setattr(CML, "ahead", staticmethod(lambda x, ahead=ahead: ahead))
            patch.setattr(CML, "labelled_half", _noted(order, "labelled", CML.labelled_half))
            patch.setattr(CML, "begin_pseudo_labels", _noted(order, "clean", CML.begin_pseudo_labels))
            patch.setattr(CML, "unlabelled_half", _noted(order, "unlabelled", CML.unlabelled_half))
            patch.setattr(torch.Tensor, "backward", _noted(order, "backward", torch.Tensor.backward))
            loop = runs.loop(recipe(dataset, out=tmp_path / str(ahead)))
            loop.stage = 1
            streams = loop.streams()
            for step in range(3):
                loop.step = step
                loop.take_step(streams, streams[step])
        states.append({**loop.method.state_dict(), **{f"momentum {i}": state["momentum_buffer"] for i, state in
                                                      enumerate(loop.optimizer.state.values())}})
        orders.append(order)
    assert orders == [3 * ["labelled", "backward", "unlabelled", "clean", "backward"],
                      3 * ["labelled", "clean", "backward", "unlabelled", "backward"]]
    assert runs.same_tensors(*states) and any("running_var" in key for key in states[0])


def _noted(order, name, function):
    def noted(*args, **options):
        order.append(name)
        return function(*args, **options)
    return noted
