"""What the networks are trained to make small.

Shapes:
    ``N`` samples, ``A`` cells of the detector's grid, ``M`` garments of one collage, ``K`` classes.
"""

import torch
from nets import CELL, FashionDetect
from torch import Tensor, nn
from torch.nn import functional

RADIUS = 0.75  # a garment's centre trains the cells at most this many cells away, on each axis


def smoothed_loss(net: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """Return cross entropy with softened labels, which also keeps the logits' range small."""
    return functional.cross_entropy(net(x).float(), labels, label_smoothing=0.1)


def pixel_loss(net: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """Return cross entropy over pixels; the background, most of them, counts half."""
    logits = net(x).float()
    weight = torch.ones(logits.shape[1])
    weight[0] = 0.5
    return functional.cross_entropy(logits, labels, weight=weight)


def assign_cells(centers: Tensor, boxes: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Give each cell the garment whose centre is nearest, if it is near.

    Args:
        centers: ``(A, 2)``, pixels.
        boxes: ``(N, M, 4)``, pixels.
        classes: ``(N, M)``, -1 where there is no garment.

    Returns:
        The boxes ``(N, A, 4)`` and the classes ``(N, A)``, -1 where no garment is near.
    """
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    far = (centers[None, :, None] - middle[:, None]).abs().amax(-1)
    far = torch.where(classes[:, None] < 0, torch.inf, far)
    least, which = far.min(-1)
    chosen = classes.gather(1, which)
    nearest = boxes.gather(1, which[..., None].expand(-1, -1, 4))
    return nearest, torch.where(least <= RADIUS * CELL, chosen, -1)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Return generalized intersection over union, ``(P, 4)`` and ``(P, 4)`` to ``(P,)``.

    Source:
        H. Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019, algorithm 1.
    """

    def area(low: Tensor, high: Tensor) -> Tensor:
        return (high - low).clamp(min=0).prod(-1)

    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    both = area(low, high)
    union = area(a[:, :2], a[:, 2:]) + area(b[:, :2], b[:, 2:]) - both
    hull = area(torch.minimum(a[:, :2], b[:, :2]), torch.maximum(a[:, 2:], b[:, 2:]))
    return both / union.clamp(min=1e-6) - (hull - union) / hull.clamp(min=1e-6)


def detect_loss(net: FashionDetect, x: Tensor, boxes: Tensor, classes: Tensor) -> Tensor:
    """Return focal loss of the scores plus GIoU loss of the boxes of cells with a garment.

    Source:
        T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, eq. 5; gamma 2.
    """
    found, logits = net.decode(x)
    found, logits = found.float(), logits.float()
    wanted, chosen = assign_cells(net.centers, boxes, classes)
    near = chosen >= 0
    target = functional.one_hot(chosen.clamp(min=0), logits.shape[-1]) * near[..., None]
    score = torch.sigmoid(logits)
    missed = torch.where(target > 0, 1 - score, score)
    entropy = functional.binary_cross_entropy_with_logits(logits, target.float(), reduction="none")
    count = near.sum().clamp(min=1)
    focal = (missed**2 * entropy).sum() / count
    return focal + (1 - giou(found[near], wanted[near])).mean()
