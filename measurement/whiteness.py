"""Whether the residual is noise: white where the operator explains the data, patterned where it does not.

With the right operator and an exact posterior sample x, y and x are exchangeable with y and the truth, so that
r = (y - A(x)) / sigma_y is N(0, I). Its autocorrelation at a shift k, over the N_k pairs that were measured,

    rho_k = sum_i r_i r_{i+k} / N_k / (sum_i r_i^2 / N)

then has mean 0 and variance 1 / N_k, and Q = sum_k N_k rho_k^2 over K shifts is chi-squared with K degrees of freedom
(Box and Pierce 1970, https://doi.org/10.1080/01621459.1970.10481180, in two dimensions). A restoration or a mean keeps
its residual away from what it has fitted, which this sees as structure too: test samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..algebra.refusal import Refusal
from .measurement import Measurement


@dataclass(frozen=True)
class Whiteness:
    """The test of each sample.

    Args:
        autocorrelation: rho, `B 2R+1 2R+1`, 1 in the middle.
        p_value: the probability of a Q as large as this where the residual is white, `B`.
        residual: r, `B C H W`, 0 where nothing was measured.
    """

    autocorrelation: Tensor
    p_value: Tensor
    residual: Tensor

    @property
    def white(self) -> bool:
        """Whether no sample is off at a level of 5 %, all of them tested together (Bonferroni)."""
        return bool(self.p_value.min() * len(self.p_value) > 0.05)


def whiteness(measurement: Measurement, x: Tensor, radius: int = 2) -> Whiteness:
    """Of pictures x, `B C H W`; shifts of up to `radius` pixels are tested.

    Raises:
        Refusal: for measurements that are not pictures, or have no noise.
    """
    if not measurement.operator.pictorial or measurement.y.ndim != 4:  # several at once are one long vector
        label = measurement.operator.label
        raise Refusal(f"What {label} measures is not a picture, so that its residual has no neighbours.")
    if not measurement.noisy:
        raise Refusal("The measurement has no noise, so its residual is 0; give it a noise level above 0.")
    white = measurement.whitened() if measurement.noise.correlated else measurement
    r = white.scaled_residual(x).double()
    support = white.operator.support(white.y)
    seen = torch.ones_like(r) if support is None else (support > 0).to(r).expand_as(r)
    r = torch.where(seen > 0, r, 0.0).nan_to_num(0.0)
    correlated, pairs = _correlation(r, radius), _correlation(seen, radius)
    rho = correlated / pairs.clamp_min(1.0)
    rho = rho / rho[:, radius : radius + 1, radius : radius + 1].clamp_min(1e-30)
    half = (2 * radius + 1) ** 2 // 2  # the other half is the same by symmetry
    q = (pairs * rho**2).flatten(1)[:, :half].sum(1)
    p_value = torch.special.gammaincc(torch.full_like(q, half / 2), q / 2)
    return Whiteness(rho, p_value, r)


def _correlation(r: Tensor, radius: int) -> Tensor:
    """sum_i r_i r_{i+k} over the channels, for shifts up to `radius`, `B 2R+1 2R+1`."""
    size = [side + radius for side in r.shape[-2:]]
    spectrum = torch.fft.rfft2(r, s=size)
    full = torch.fft.irfft2(spectrum.abs() ** 2, s=size).sum(1)
    index = torch.arange(-radius, radius + 1, device=r.device)
    return full[:, index][:, :, index]
