"""The four networks, in PyTorch.

Shapes:
    ``N`` samples, ``C`` channels, ``H`` rows, ``W`` columns, ``A`` cells of the detector's grid.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

CELL = 8  # pixels a cell of the detector's grid is wide
SIDE = 8  # cells in a row of the detector's grid


def conv(c0: int, c1: int, kernel: int, act: nn.Module | None = None, **more: int) -> nn.Sequential:
    """Make a convolution that keeps the size at stride 1, its batch norm and its activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(c0, c1, kernel, padding=kernel // 2, bias=False, **more),
        nn.BatchNorm2d(c1),
    ]
    return nn.Sequential(*layers, act) if act else nn.Sequential(*layers)


class Residual(nn.Module):
    """Add two 3x3 convolutions to a shortcut.

    Shapes:
        ``(N, c0, H, W)`` to ``(N, c1, H / stride, W / stride)``.
    """

    def __init__(self, c0: int, c1: int, stride: int = 1) -> None:
        """Choose the widths and the stride of the first convolution."""
        super().__init__()
        self.first = conv(c0, c1, 3, nn.ReLU(), stride=stride)
        self.second = conv(c1, c1, 3)
        plain = c0 == c1 and stride == 1
        self.shortcut = nn.Identity() if plain else conv(c0, c1, 1, stride=stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return self.relu(self.second(self.first(x)) + self.shortcut(x))


class Inverted(nn.Module):
    """Widen, filter each channel alone, narrow again: MobileNetV2's block.

    Source:
        M. Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018,
        section 3.3.
    """

    def __init__(self, c0: int, c1: int, wide: int, stride: int = 1) -> None:
        """Choose the widths: in, out and between; a block of equal ends adds its input."""
        super().__init__()
        self.expand = conv(c0, wide, 1, nn.ReLU6())
        self.depthwise = conv(wide, wide, 3, nn.ReLU6(), stride=stride, groups=wide)
        self.project = conv(wide, c1, 1)
        self.adds = c0 == c1 and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y = self.expand(x)
        with torch.autocast("cpu", enabled=False):  # strided depthwise is slow in bfloat16
            y = self.depthwise(y.float() if y.dtype == torch.bfloat16 else y)
        y = self.project(y)
        return x + y if self.adds else y


class FashionResnet(nn.Module):
    """Classify garments: ``(N, 1, 28, 28)`` to logits ``(N, 10)``."""

    def __init__(self) -> None:
        """Build seven convolutions: a stem and two residual blocks."""
        super().__init__()
        self.stem = conv(1, 32, 3, nn.ReLU())
        self.pool = nn.MaxPool2d(2)
        self.block1 = Residual(32, 64)
        self.block2 = Residual(64, 128, stride=2)
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(128, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Give the logits."""
        x = self.block2(self.block1(self.pool(self.stem(image))))
        return self.head(torch.flatten(self.gap(x), 1))


class FashionMobilenet(nn.Module):
    """Classify garments: ``(N, 1, 28, 28)`` to logits ``(N, 10)``."""

    def __init__(self) -> None:
        """Build a strided stem, five inverted residual blocks and a wide last convolution."""
        super().__init__()
        self.stem = conv(1, 32, 3, nn.ReLU6(), stride=2)
        self.blocks = nn.Sequential(
            Inverted(32, 32, 96),
            Inverted(32, 48, 128),
            Inverted(48, 48, 192),
            Inverted(48, 80, 192, stride=2),
            Inverted(80, 80, 320),
        )
        self.last = conv(80, 256, 1, nn.ReLU6())
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(256, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Give the logits."""
        x = self.last(self.blocks(self.stem(image)))
        return self.head(torch.flatten(self.gap(x), 1))


class FashionSegment(nn.Module):
    """Label pixels: ``(N, 1, 64, 64)`` to logits ``(N, 11, 64, 64)``.

    Source:
        O. Ronneberger et al., "U-Net", MICCAI 2015. Differs: smaller, sizes kept by padding, a
        nearest-neighbour Resize in place of the last transposed convolution.
    """

    def __init__(self) -> None:
        """Build four levels: 64, 32, 16 and 8 pixels wide."""
        super().__init__()
        self.level0 = conv(1, 16, 3, nn.ReLU())
        self.level1 = nn.Sequential(conv(16, 32, 3, nn.ReLU()), conv(32, 32, 3, nn.ReLU()))
        self.level2 = nn.Sequential(conv(32, 64, 3, nn.ReLU()), conv(64, 64, 3, nn.ReLU()))
        self.level3 = nn.Sequential(conv(64, 96, 3, nn.ReLU()), conv(96, 96, 3, nn.ReLU()))
        self.pool = nn.MaxPool2d(2)
        self.up2 = nn.ConvTranspose2d(96, 64, 2, stride=2)
        self.merge2 = conv(128, 64, 3, nn.ReLU())
        self.up1 = nn.ConvTranspose2d(64, 32, 2, stride=2)
        self.merge1 = conv(64, 16, 3, nn.ReLU())
        self.merge0 = conv(32, 16, 3, nn.ReLU())
        self.head = nn.Conv2d(16, 11, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Give the logits of every pixel."""
        x0 = self.level0(image)
        x1 = self.level1(self.pool(x0))
        x2 = self.level2(self.pool(x1))
        x3 = self.level3(self.pool(x2))
        y2 = self.merge2(torch.cat([self.up2(x3), x2], 1))
        y1 = self.merge1(torch.cat([self.up1(y2), x1], 1))
        y0 = functional.interpolate(y1, scale_factor=2.0, mode="nearest")
        return self.head(self.merge0(torch.cat([y0, x0], 1)))


class FashionDetect(nn.Module):
    """Find garments: ``(N, 1, 64, 64)`` to boxes ``(N, A, 4)`` and scores ``(N, A, 10)``.

    Each cell of an 8x8 grid gives one box, as distances from its centre to the four sides.

    Source:
        Z. Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019. Differs:
        one scale, no centre-ness, SiLU, softplus in place of the exponential.
    """

    centers: Tensor

    def __init__(self) -> None:
        """Build a backbone of stride 8 and two branches."""
        super().__init__()
        self.backbone = nn.Sequential(
            conv(1, 32, 3, nn.SiLU(), stride=2),
            conv(32, 48, 3, nn.SiLU(), stride=2),
            conv(48, 64, 3, nn.SiLU()),
            conv(64, 96, 3, nn.SiLU(), stride=2),
            conv(96, 96, 3, nn.SiLU()),
            conv(96, 96, 3, nn.SiLU()),
        )
        self.sides = nn.Sequential(conv(96, 64, 3, nn.SiLU()), nn.Conv2d(64, 4, 1))
        self.classes = nn.Sequential(conv(96, 64, 3, nn.SiLU()), nn.Conv2d(64, 10, 1))
        nn.init.constant_(self.classes[1].bias, -4.0)  # few cells hold a garment
        at = (torch.arange(SIDE) + 0.5) * CELL
        y, x = torch.meshgrid(at, at, indexing="ij")
        self.register_buffer("centers", torch.stack([x, y], -1).reshape(-1, 2))

    def decode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Give the boxes in pixels and the classes before the sigmoid."""
        x = self.backbone(image)
        # Fixed sizes, so that the exported Reshape needs no arithmetic on shapes.
        sides = functional.softplus(self.sides(x)).reshape(-1, 4, SIDE * SIDE).transpose(1, 2)
        low, high = (sides * CELL).split(2, -1)
        boxes = torch.cat([self.centers - low, self.centers + high], -1)
        return boxes, self.classes(x).reshape(-1, 10, SIDE * SIDE).transpose(1, 2)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Give the boxes in pixels and the scores."""
        boxes, logits = self.decode(image)
        return boxes, torch.sigmoid(logits)
