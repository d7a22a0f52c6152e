"""Layers that compute what torch.nn's do, faster on a CPU in channels-last memory.

Networks are written with torch.nn; `quicken` exchanges the classes of their layers, and nothing else: parameters,
buffers and their names stay.
"""
import torch
import torch.nn.functional as F
from torch import nn

FEWEST = 32     # channels that repay the copies into contiguous memory


class Dropout(nn.Dropout):
    """Elementwise dropout whose mask costs a 16-bit draw an element in place of a 53-bit one."""

    def forward(self, x):
        if not self.training or self.p == 0:
            return x
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-2 ** 63, None).view(torch.int16)
        kept = draws[:x.numel()] >= round(self.p * 2 ** 16) - 2 ** 15
        return (x * kept.view(x.movedim(1, -1).shape).movedim(-1, 1)).mul_(1 / (1 - self.p))


class Conv2d(nn.Conv2d):
    """Convolution with the gradient of its weight taken in contiguous memory, where oneDNN is faster."""

    def forward(self, x):
        if torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        return _Conv2d.apply(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class _Conv2d(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding, dilation, groups):
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding, dilation, False, (0, 0), groups
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        backward = torch.ops.aten.convolution_backward
        grad = grad.contiguous(memory_format=torch.channels_last)
        wanted = ctx.needs_input_grad
        of_x = backward(grad, x, weight, None, *ctx.geometry, [True, False, False])[0] if wanted[0] else None
        of_weight = backward(_contiguous(grad), _contiguous(x), weight.contiguous(), None, *ctx.geometry,
                             [False, True, False])[1] if wanted[1] else None
        return of_x, of_weight, grad.sum((0, 2, 3)) if wanted[2] else None, None, None, None, None


def _contiguous(x):
    """(B, C, H, W) in channels-last memory -> contiguous; a scan at a time, as torch is faster with matrices."""
    copy = torch.empty(x.shape, dtype=x.dtype)
    for new, old in zip(copy.flatten(2), x.flatten(2), strict=True):
        new.copy_(old)
    return copy


class PointwiseConv3d(nn.Conv3d):
    """1x1x1 convolution as a matrix product over the channels: no copy into another memory format, either way."""

    def forward(self, x):
        return F.linear(x.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)


def quicken(module):
    """Exchange the layers of `module`, in place, for the ones above; returns it."""
    for layer in module.modules():
        if type(layer) is nn.Dropout:
            layer.__class__ = Dropout
        elif type(layer) is nn.Conv2d and layer.in_channels >= FEWEST and layer.kernel_size != (1, 1) \
                and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
            layer.__class__ = Conv2d
        elif type(layer) is nn.Conv3d and layer.kernel_size == layer.stride == (1, 1, 1) \
                and layer.padding == (0, 0, 0) and layer.groups == 1:
            layer.__class__ = PointwiseConv3d
    return module
