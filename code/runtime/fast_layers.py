"""Layers that compute what torch.nn's do, faster in channels-last memory; batch norms that cost nothing.

Networks are written with torch.nn; `quicken` for a CPU and `quicken_on_gpu` exchange the classes of their layers, and
nothing else: parameters, buffers and their names stay.
"""
from contextlib import contextmanager
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

FLOATS_AT_ONCE = 2 ** 21       # floats that are copied at once: what the cache holds


class Dropout(nn.Dropout):
    """Elementwise dropout whose mask costs a 16-bit draw an element in place of a 53-bit one."""

    def forward(self, x):
        if not self.training or self.p == 0:
            return x
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-2 ** 63, None).view(torch.int16)
        kept = draws[:x.numel()] >= round(self.p * 2 ** 16) - 2 ** 15
        return (x * kept.view(x.movedim(1, -1).shape).movedim(-1, 1)).mul_(1 / (1 - self.p))


class _Same3:
    """3x3(x3) convolution, stride and padding 1, whose weight's gradient is taken by matrix products."""

    def forward(self, x):
        if torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        return _Convolution.apply(x, self.weight, self.bias)


class Conv2d(_Same3, nn.Conv2d):
    pass


class Conv3d(_Same3, nn.Conv3d):
    pass


class _Convolution(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x, weight, bias):
        ones = [1] * (x.ndim - 2)
        ctx.save_for_backward(x, weight)
        ctx.geometry = ones, ones, ones, False, [0] * len(ones), 1
        return torch.ops.aten.convolution(x, weight, bias, *ctx.geometry)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        of_x = torch.ops.aten.convolution_backward(grad, x, weight, None, *ctx.geometry,
                                                   [True, False, False])[0] if wanted[0] else None
        of_bias = grad.transpose(0, 1).flatten(1).sum(1) if wanted[2] else None
        return of_x, weight_gradient(grad, x) if wanted[1] else None, of_bias


def weight_gradient(grad, x):
    """grad (B, O, *S), x (B, I, *S), best in channels-last memory -> (O, I, 3, 3) or (O, I, 3, 3, 3).

    im2col along the last axis (three taps), then one matrix product per kernel offset along the other axes: voxels x 3I
    with voxels x O. A 2D batch is one stack of planes without offsets between them.
    """
    grad, x = grad.movedim(1, -1), x.movedim(1, -1)
    offsets = (-1, 0, 1)
    if x.ndim == 4:
        grad, x, offsets = grad[None], x[None], (0,)
    planes, height, width, channels = x.shape[1:]
    total = x.new_zeros(len(offsets), 3, 3 * channels, grad.shape[-1])
    at_once = max(1, FLOATS_AT_ONCE // (3 * channels * height * width))
    for of_scan, scan in zip(grad, x, strict=True):
        for first in range(0, planes, at_once):
            last = min(first + at_once, planes)
            padded = x.new_zeros(last - first, height + 2, width + 2, channels)
            padded[:, 1:-1, 1:-1] = scan[first:last]
            triples = padded.as_strided((last - first, height + 2, width, 3 * channels),
                                        (*padded.stride()[:2], channels, 1)).contiguous()
            for plane, offset in enumerate(offsets):
                low, high = max(first, offset), min(last, planes + offset)
                voxels = of_scan[low - offset:high - offset].flatten(1, 2)
                for row in range(3):
                    shifted = triples[low - first:high - first, row:row + height].flatten(1, 2)
                    total[plane, row] += torch.bmm(shifted.transpose(1, 2), voxels).sum(0)
    weight = total.unflatten(2, (3, channels)).permute(4, 3, 0, 1, 2)
    return weight if len(offsets) == 3 else weight[:, :, 0]


class DroppedPointwise3d(nn.Sequential):
    """Dropout of whole channels, then a 1x1x1 convolution: a matrix product by the weight without those channels."""

    def forward(self, x):
        dropout, head = self
        kept = dropout(x.new_ones(*x.shape[:2], 1, 1, 1)).flatten(1)
        weight = head.weight.flatten(1) * kept[:, None]                     # (B, out, in)
        logits = torch.baddbmm(head.bias, x.movedim(1, -1).flatten(1, -2), weight.transpose(1, 2))
        return logits.unflatten(1, x.shape[2:]).movedim(-1, 1)


class BatchNorm3d(nn.BatchNorm3d):
    """Of a volume's slices as one tall image, the same memory: cuDNN and PyTorch know channels-last images alone."""

    _check_input_dim = nn.BatchNorm2d._check_input_dim

    def forward(self, x):
        return super().forward(x.flatten(2, 3)).unflatten(2, x.shape[2:4])


class Upsample(nn.Upsample):
    """Linear interpolation as one matrix product per axis.

    The gradient repeats bit for bit, as PyTorch's on a GPU does not, and channels-last memory stays.
    """

    def forward(self, x):
        x = x.movedim(1, -1)
        interpolation = _interpolation if torch.compiler.is_compiling() else _kept_interpolation
        for axis in range(1, x.ndim - 1):
            weights = interpolation(x.shape[axis], self.scale_factor, self.align_corners, x.dtype, x.device)
            planes = x.reshape(x.shape[:axis].numel(), x.shape[axis], -1)
            new = torch.bmm(weights.expand(len(planes), -1, -1), planes)
            x = new.view(*x.shape[:axis], len(weights), *x.shape[axis + 1:])
        return x.movedim(-1, 1)


def _interpolation(extent, factor, align_corners, dtype, device):
    """Matrix (new extent, extent) that interpolates along an axis."""
    unit = torch.eye(extent, dtype=torch.float64, device=device)[None]
    return F.interpolate(unit, scale_factor=factor, mode="linear", align_corners=align_corners)[0].T.to(dtype)


@lru_cache(maxsize=64)
def _kept_interpolation(*arguments):
    with torch.inference_mode(False):       # a pass with gradients may need it, too
        return _interpolation(*arguments)


def quicken_on_gpu(module):
    """Exchange the layers of `module`, in place, for those that a GPU computes faster, or the same every time.

    What is norm's output here is a view, of which autograd copies what an activation in place would change: so none is.
    """
    activations = [layer for layer in module.modules() if getattr(layer, "inplace", False)]
    for layer in module.modules():
        if type(layer) is nn.BatchNorm3d:
            layer.__class__ = BatchNorm3d
            for activation in activations:
                activation.inplace = False
        elif type(layer) is nn.Upsample and layer.mode in ("linear", "bilinear", "trilinear") \
                and isinstance(layer.scale_factor, float):
            layer.__class__ = Upsample
    return module


def quicken(module, capability=None):
    """Exchange the layers of `module`, in place, for those that are faster on a CPU; returns it.

    capability: of the CPU, PyTorch's word for it. oneDNN's own weight gradients are slow with AVX2 alone; with AVX-512
    they take half the time of matrix products.
    """
    products = (capability or torch.backends.cpu.get_cpu_capability()) == "AVX2"
    for layer in module.modules():
        if type(layer) is nn.Dropout:
            layer.__class__ = Dropout
        elif products and type(layer) is nn.Conv2d and _is_same3(layer) and layer.in_channels >= 32:
            layer.__class__ = Conv2d
        elif products and type(layer) is nn.Conv3d and _is_same3(layer) and layer.in_channels > layer.out_channels:
            layer.__class__ = Conv3d
        elif type(layer) is nn.Sequential and [type(part) for part in layer] == [nn.Dropout3d, nn.Conv3d] \
                and _has(layer[1], kernel_size=1, stride=1, padding=0, groups=1) and layer[1].bias is not None:
            layer.__class__ = DroppedPointwise3d
    return module


def _is_same3(layer):
    return _has(layer, kernel_size=3, stride=1, padding=1, dilation=1, groups=1) and layer.padding_mode == "zeros"


def _has(layer, groups, **geometry):
    """Whether a convolution has this geometry along each axis."""
    return layer.groups == groups and all(set(getattr(layer, name)) == {value} for name, value in geometry.items())


# ---- batch norms that cost nothing -----------------------------------------------------------------------------

CONVOLUTIONS = {nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d, Conv2d: F.conv2d, Conv3d: F.conv3d,
                nn.ConvTranspose2d: F.conv_transpose2d, nn.ConvTranspose3d: F.conv_transpose3d}
NORMS = nn.BatchNorm2d, nn.BatchNorm3d, BatchNorm3d


@contextmanager
def folded(module):
    """In evaluation mode, a Sequential computes a convolution and its batch norm as one, until the end.

    Its layers stay what they are: called in any other way than through their Sequential, they do what they did. Left
    alone are layers of any other type than torch's own or this file's, and those with hooks, a parametrisation or
    settings under which the two are not one.
    """
    parents = [parent for parent in module.modules() if type(parent) is nn.Sequential]
    try:
        for parent in parents:
            steps = _steps(list(parent))
            if any(isinstance(step, _Step) for step in steps):
                parent.__dict__["steps"] = steps        # past nn.Module: the layers are not registered twice
                parent.__class__ = _Folded
        yield
    finally:
        for parent in parents:
            parent.__class__ = nn.Sequential
            parent.__dict__.pop("steps", None)


class _Folded(nn.Sequential):

    def forward(self, x):
        for step in vars(self).get("steps", self):      # a slice of it has the layers alone
            x = step(x)
        return x


def _steps(layers):
    """Layers of a Sequential, a convolution and its batch norm joined."""
    steps = []
    while layers:
        if len(layers) > 1 and _is_pair(*layers[:2]):
            steps.append(_Step(*layers[:2]))
            layers = layers[2:]
        else:
            steps.append(layers.pop(0))
    return steps


def _is_pair(conv, norm):
    return (_is_plain(conv, CONVOLUTIONS) and _is_plain(norm, NORMS) and not norm.training
            and norm.running_mean is not None and norm.num_features == conv.out_channels
            and not (conv.transposed and conv.groups > 1) and conv.padding_mode == "zeros"
            and conv.weight.dtype == norm.running_mean.dtype)


def _is_plain(layer, types):
    """Whether a call of the layer is its type's forward and nothing else."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return type(layer) in types and "forward" not in vars(layer) and not any(getattr(layer, name) for name in hooks)


class _Step:
    """A convolution with its batch norm's factor and shift in its weight and bias."""

    def __init__(self, conv, norm):
        self.conv = conv
        self.volumes = (isinstance(conv, nn.Conv3d) and not isinstance(conv.padding, str)
                        and torch.backends.mkldnn.is_available())
        with torch.no_grad():
            self.weight, self.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias,
                transpose=conv.transposed)

    def __call__(self, x):
        conv = self.conv
        if self.volumes and x.device.type == "cpu" and x.dtype == torch.float32 and x.ndim == 5:
            # oneDNN's; of one window at the highest and the lowest resolution PyTorch takes a slower one of its own
            return torch.ops.aten.mkldnn_convolution(x, self.weight, self.bias, conv.padding, conv.stride,
                                                     conv.dilation, conv.groups)
        more = (conv.output_padding, conv.groups, conv.dilation) if conv.transposed else (conv.dilation, conv.groups)
        return CONVOLUTIONS[type(conv)](x, self.weight, self.bias, conv.stride, conv.padding, *more)
