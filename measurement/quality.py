"""Full-reference quality of a picture in [0, 1]: PSNR, and SSIM (Wang, Bovik, Sheikh and Simoncelli 2004,
https://doi.org/10.1109/TIP.2003.819861) with its Gaussian window of 1.5 pixels, 11 wide, averaged over colours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..algebra.refusal import Refusal


def psnr(x: Tensor, reference: Tensor) -> Tensor:
    """Of `B C H W`, in dB, per sample; infinite where they are equal."""
    require_same_size(x, reference)
    return -10 * (x.double() - reference.double()).square().flatten(1).mean(1).log10()


def ssim(x: Tensor, reference: Tensor) -> Tensor:
    """Of `B C H W`, per sample, at most 1; pictures of at least 11 pixels."""
    require_same_size(x, reference)
    if min(x.shape[-2:]) < 11:
        raise Refusal("The pictures are smaller than the window of SSIM, 11 pixels; leave the reference out.")
    x, reference = torch.broadcast_tensors(x.double(), reference.double())
    offset = torch.arange(-5, 6, dtype=torch.float64, device=x.device)
    line = torch.exp(-(offset**2) / (2 * 1.5**2))
    line = line / line.sum()

    def mean(u: Tensor) -> Tensor:
        rows = F.conv2d(u.flatten(0, 1)[:, None], line.reshape(1, 1, -1, 1))
        return F.conv2d(rows, line.reshape(1, 1, 1, -1)).reshape(*u.shape[:2], u.shape[2] - 10, u.shape[3] - 10)

    a, b = mean(x), mean(reference)
    variance_a, variance_b = mean(x * x) - a * a, mean(reference * reference) - b * b
    covariance = mean(x * reference) - a * b
    c1, c2 = 0.01**2, 0.03**2
    structure = (2 * a * b + c1) * (2 * covariance + c2) / ((a * a + b * b + c1) * (variance_a + variance_b + c2))
    return structure.flatten(1).mean(1)


def require_same_size(x: Tensor, reference: Tensor) -> None:
    """Refuses a reference of another size, or of another number of pictures."""
    if x.shape[1:] != reference.shape[1:] or len(reference) not in (1, len(x)):
        there, here = (f"{len(each)} of {each.shape[3]} x {each.shape[2]}" for each in (reference, x))
        raise Refusal(f"The reference is {there} and the picture {here}; make them the same size.")
