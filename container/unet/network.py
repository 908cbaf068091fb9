"""The U-Net of Ronneberger, Fischer and Brox (2015, https://arxiv.org/abs/1505.04597), a layer a line.

Two things are of today: each convolution pads, so that a mask has its picture's size, and batch normalization follows it.
"""

import torch
from torch import Tensor, nn


def two_convolutions(inputs: int, outputs: int) -> nn.Sequential:
    """Each pixel of the result has seen five by five pixels."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """Float pictures of (batch, channels, height, width) to a score for each class, (batch, classes, height, width).

    Height and width are multiples of 2**depth. Down: `depth` times half the size and twice the features, of which the
    first level has `width`. Up: the same way back, and at each level what was seen there on the way down is put beside.
    """

    def __init__(self, channels: int, classes: int, width: int, depth: int):
        super().__init__()
        features = [width * 2**level for level in range(depth + 1)]
        self.first = two_convolutions(channels, width)
        self.shrink = nn.MaxPool2d(2)
        self.down = nn.ModuleList(two_convolutions(n, 2 * n) for n in features[:-1])
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(2 * n, n, 2, stride=2) for n in features[-2::-1])
        self.up = nn.ModuleList(two_convolutions(2 * n, n) for n in features[-2::-1])
        self.last = nn.Conv2d(width, classes, kernel_size=1)

    def forward(self, pictures: Tensor) -> Tensor:
        seen = [self.first(pictures)]
        for convolutions in self.down:
            seen.append(convolutions(self.shrink(seen[-1])))
        found = seen.pop()
        for enlarge, convolutions in zip(self.enlarge, self.up, strict=True):
            found = convolutions(torch.cat([seen.pop(), enlarge(found)], dim=1))
        return self.last(found)


class Served(nn.Module):
    """What model.onnx holds: pictures as they are read, uint8 (batch, height, width, channels), to probabilities."""

    def __init__(self, network: UNet):
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        return self.network(scaled(pictures)).softmax(dim=1)


def scaled(pictures: Tensor) -> Tensor:
    """uint8 (batch, height, width, channels) as the network takes them: float32, channels first, -1 to 1."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1
