"""MC-Net: mutual consistency by hand, its sharpened side not detached; the terms of its loss."""
import math

import pytest
import torch

from methods import registry
from methods.losses import supervised_loss
from methods.mc_net import MCNet, mutual_consistency
from runtime.errors import InputError


def sharpened(p):
    return p ** 10 / (p ** 10 + (1 - p) ** 10)


def test_consistency_by_hand():
    """Two classes, one voxel: both ordered pairs, means over classes; three decoders have six pairs."""
    p = [0.6, 0.45, 0.9]
    views = [torch.tensor([1 - v, v], dtype=torch.float64).view(1, 2, 1, 1) for v in p]

    def pair(i, j):
        return ((p[i] - sharpened(p[j])) ** 2 + (1 - p[i] - sharpened(1 - p[j])) ** 2) / 2
    assert float(mutual_consistency(views[:2])) == pytest.approx(pair(0, 1) + pair(1, 0))
    six = sum(pair(i, j) for i in range(3) for j in range(3) if i != j)
    assert float(mutual_consistency(views)) == pytest.approx(six)


def test_four_classes_are_sharpened_one_by_one():
    first, second = torch.rand(2, 3, 4, 2, 2, dtype=torch.float64)
    expected = (first - sharpened(second)).square().mean() + (second - sharpened(first)).square().mean()
    torch.testing.assert_close(mutual_consistency([first, second]), expected)


def test_nothing_is_detached():
    views = [(0.3 + 0.4 * torch.rand(2, 2, 2, 2, dtype=torch.float64)).requires_grad_() for _ in range(2)]
    assert torch.autograd.gradcheck(lambda *given: mutual_consistency(list(given)), views)


def test_it_is_finite_with_its_gradient_at_0_and_1():
    views = [torch.tensor([0.0, 1.0, 0.5]).view(1, 3, 1, 1).requires_grad_() for _ in range(2)]
    loss = mutual_consistency(views)
    loss.backward()
    assert loss.isfinite() and all(view.grad.isfinite().all() for view in views)


@pytest.mark.parametrize(("dataset", "protocol", "loss", "share", "ceiling", "progress"), [
    ("LA", "matched", "eq2", 0.5, 1.0, 299 / 800), ("LA", "original", "dlin_fg", 0.5, 1.0, 300 / 800),
    ("ACDC", "matched", "eq2", 1.0, 0.1, 299 / 2000), ("ACDC", "original", "dmc2", 1.0, 0.1, 300 / 2000),
    ("BraTS2019", "original", "dlin_fg", 0.5, 1.0, 300 / 800)])
@pytest.mark.parametrize("decoders", [2, 3])
def test_the_loss_is_made_of_its_terms(setting, step, dataset, protocol, loss, share, ceiling, progress, decoders):
    """The released counter is one ahead: at step 299 it is on the stair of 300."""
    s = setting("mc_net", dataset, protocol, step=299, steps=2000, hyper={"decoders": decoders})
    outputs = []
    s.method.networks.register_forward_hook(lambda module, inputs, output: outputs.append((inputs[0], output)))
    total, terms = step(s.method.losses, s.batch)
    (x, views), = outputs
    assert torch.equal(x, torch.cat([s.batch.x_l, s.batch.x_u])) and len(views) == decoders
    sup = sum(supervised_loss(loss)(logits[:4], s.batch.y_l) for logits, _ in views)
    consistency = mutual_consistency([logits.softmax(1) for logits, _ in views])     # labelled samples too
    weight = ceiling * math.exp(-5 * (1 - progress) ** 2)
    torch.testing.assert_close(total, (share * sup + weight * consistency).detach())
    torch.testing.assert_close(terms["consistency"], consistency)
    assert {int(b) for key, b in s.method.networks.named_buffers() if key.endswith("num_batches_tracked")} == {1}
    assert all(p.grad is not None for p in s.method.parameters())


@pytest.mark.parametrize("dataset", ["LA", "ACDC"])
def test_the_first_decoder_is_tested(setting, dataset):
    s = setting("mc_net", dataset, hyper={"decoders": 3})
    views = s.method.eval().predict(s.batch.x_u)
    assert list(views) == ["decoder1", "decoder2", "decoder3", "mean"]
    outputs = [logits.softmax(1) for logits, _ in s.method.networks(s.batch.x_u)]
    for probs, expected in zip(views.values(), [*outputs, sum(outputs) / 3], strict=True):
        torch.testing.assert_close(probs, expected)


def test_its_settings(setting):
    assert registry.METHODS["mc_net"] is MCNet and MCNet.pair == ("decoder1", "decoder2")
    assert MCNet.defaults("ACDC").ramp_share == 1 and MCNet.defaults("LA").ramp_share == 0.4
    assert MCNet.defaults("BraTS2019", "original") == MCNet.defaults("LA", "original")
    with pytest.raises(InputError, match="--hyper.decoders 4: choose 2 for MC-Net or 3"):
        setting("mc_net", hyper={"decoders": 4})
