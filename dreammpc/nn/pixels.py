"""Blocks for 64×64 frames: random shift and convolutions (arXiv 2310.16828, App. H; 2107.09645, §3.1)."""

import torch
from torch import Tensor, nn

SHIFT = 3
"""Pixels, at most, by which an image moves in training."""
GRAY = 0.5
"""Halfway between black and white."""


def random_shift(images: Tensor, offset: Tensor) -> Tensor:
    """Move images by whole pixels; what comes in at an edge repeats it.

    The published program pads by replication and samples a bilinear grid. At whole pixels that grid falls on
    pixels, so here they are read by index: the same image without rounding, and in bytes.

    Args:
        images: [M, C, H, W], any type.
        offset: integers [M, 2] in [0, 2·`SHIFT`]; `SHIFT` leaves the image where it is.
    """
    height, width = images.shape[-2:]
    rows = (torch.arange(height, device=images.device) + offset[:, :1] - SHIFT).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) + offset[:, 1:] - SHIFT).clamp(0, width - 1)
    place = (rows.unsqueeze(2) * width + columns.unsqueeze(1)).flatten(1)  # [M, H·W]
    place = place.unsqueeze(1).expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, place).view_as(images)


def sample_shift(size: int, device: torch.device) -> Tensor:
    """Offsets for `random_shift`, [size, 2]."""
    return torch.randint(2 * SHIFT + 1, (size, 2), device=device)


class ConvFeatures(nn.Module):
    """Four convolutions of 32 channels: kernels 7, 5, 3, 3, strides 2, 2, 2, 1, ReLU between.

    Images go in less `center`, which training sets to the mean image before its first update. As published it
    is gray. Then the background, equal in all images, is most of what goes through the convolutions, and they
    tell images apart so little that an encoder learns to say the same of all (docs/ablations.md).

    Weights begin orthogonal with ReLU's gain, as in the program of DrQ-v2 (arXiv 2107.09645). As torch has
    them, features differ between images by a 37th of that (cartpole-swingup, mean of five draws).

    Args:
        channels: of the images, which are several frames.
        frames: how many; a frame has three channels for each camera.
    """

    features = 512
    """Width of the output: 32 channels of 4×4."""
    center: Tensor

    def __init__(self, channels: int, frames: int = 3):
        super().__init__()
        self.frames = frames
        self.register_buffer("center", torch.full((channels // frames, 64, 64), GRAY))
        layers: list[nn.Module] = []
        for kernel, stride in ((7, 2), (5, 2), (3, 2), (3, 1)):
            conv = nn.Conv2d(channels, 32, kernel, stride)
            nn.init.orthogonal_(conv.weight, gain=2**0.5)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            layers += [conv, nn.ReLU()]
            channels = 32
        self.layers = nn.Sequential(*layers[:-1], nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        """Bytes [M, channels, 64, 64] → [M, 512]."""
        x = images.to(memory_format=torch.channels_last)  # less than half the time on CPU
        return self.layers(x.float() / 255 - self.center.repeat(self.frames, 1, 1))

    def mean_frame(self, images: Tensor) -> Tensor:
        """Of bytes [M, channels, 64, 64]: [channels of a frame, 64, 64] in [0, 1]."""
        return images.float().mean(0).unflatten(0, (self.frames, -1)).mean(0) / 255
