"""Initial weights other than PyTorch's own."""
from torch import nn

CONVOLUTIONS = nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d


def kaiming(network):
    """Every convolution's weight from He's normal distribution (fan in, gain of ReLU); biases as they are.

    Returns the network. SSL4MIS's 3D U-Net and MCF's two networks start so, heads and transposed convolutions included
    [C].
    """
    for module in network.modules():
        if isinstance(module, CONVOLUTIONS):
            nn.init.kaiming_normal_(module.weight)
    return network
