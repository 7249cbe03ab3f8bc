"""LanPaint (https://github.com/scraed/LanPaint, a pack for ComfyUI) on the frontier's problems of masks.

Its own node samples in a real ComfyUI, on a MODEL of the problem's prior, from the measured pixels and the mask, with
our noise levels, `euler` as it recommends, and without CFG. Nothing of it is part of this pack: it lies in a folder.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from ..diffusion.level import Level
from ..tests.inside_host import Host, awaited
from ..tools import environment
from .counted import Counted
from .frontier import Task, levels

#: iterations of a step, its length (0.2 as set) and how strongly the seen part is held (5 as set)
SETTINGS = [(n, length, held) for n in (2, 5, 10, 20) for length in (0.2, 0.5) for held in (5.0, 16.0)]


class Prior(nn.Module):
    """A problem's prior as a network of the host: x_t in [-1, 1] plus noise, and log(sigma) / 4, to x0_hat."""

    dtype = torch.float32

    def __init__(self, prior: Counted, like: Tensor):
        super().__init__()
        self.held = nn.Parameter(torch.zeros(1), requires_grad=False)  # the host wants to move something
        self.prior, self.like = prior, like

    def forward(self, x: Tensor, timesteps: Tensor, **kwargs) -> Tensor:
        sigma = (4 * timesteps.max()).exp().item()
        with torch.inference_mode(False):
            u = ((x.clone() + 1) / 2).to(self.like)
            return (2 * self.prior(u, Level(1.0, sigma / 2, 2.0)) - 1).to(x)


class LanPaint:
    """The pack in a folder, in a ComfyUI in this process."""

    def __init__(self, folder: str):
        self.host = Host(environment.get(os.environ.get("COMFYUI_PATH")))
        path = Path(folder).resolve()
        assert awaited(self.host.nodes.load_custom_node(str(path))), f"ComfyUI cannot load the pack in {path}"
        found = re.search(r'^version = "(.*)"', (path / "pyproject.toml").read_text(encoding="utf-8"), re.M)
        self.version = f"LanPaint {found[1] if found else 'of no version'}"

    def __call__(self, settings: tuple[int, float, float], task: Task, prior: Counted, steps: int) -> Tensor:
        """Samples `B C H W` in [0, 1], by one of `SETTINGS`."""
        from ..host.models.pixel_model import ready_model

        y = task.measurement.y
        seen = (task.measurement.operator.singular_values(y) > 0).to(y).expand(1, 1, -1, -1)
        model = ready_model(Prior(prior, y))
        model.model.latent_format.latent_channels = task.measurement.image_shape[0]
        picture = (seen * (2 * y - 1)).float().expand(task.count, -1, -1, -1).contiguous()
        latent = {"samples": picture, "noise_mask": (1 - seen[:, 0]).float()}
        nothing = [[None, {}]]
        iterations, length, held = settings
        torch.manual_seed(1)
        samples, _ = self.host.call(
            "LanPaint_SamplerCustomAdvanced",
            noise=self.host.call("RandomNoise", noise_seed=1),
            guider=self.host.call("CFGGuider", model=model, positive=nothing, negative=nothing, cfg=1.0),
            sampler=self.host.call("KSamplerSelect", sampler_name="euler"),
            sigmas=torch.tensor([2 * level.sigma for level in levels(steps)]),
            latent_image=latent,
            LanPaint_NumSteps=iterations,
            LanPaint_StepSize=length,
            LanPaint_Lambda=held,
            LanPaint_PromptMode="Image First",
        )
        return (samples["samples"].clone().to(y) + 1) / 2


def affordable(iterations: int, budget: int) -> int:
    """Steps within so many calls: one call a step and iterations in the share of noise, sigma^2 / (1 + sigma^2)."""

    def calls(steps: int) -> int:
        noises = [(2 * level.sigma) ** 2 for level in levels(steps)[:-2]]
        return steps + sum(round(iterations * noise / (1 + noise)) for noise in noises)

    return max((steps for steps in range(2, budget + 1) if calls(steps) <= budget), default=0)
