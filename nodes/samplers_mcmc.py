"""Sampler nodes: Markov chains, whose law tends to the posterior itself."""

from __future__ import annotations

from ..samplers.split_gibbs import SplitGibbs
from .schema import MeasuredSamplerNode, Setting


class SplitGibbsNode(MeasuredSamplerNode):
    METHOD = SplitGibbs
    HEAD = (
        "PosteriorSplitGibbs", "PnP-DM (Split Gibbs Sampler)",
        "Draws the picture from the model and from the measurement in turn, ever closer together: samples whose spread "
        "can be trusted. For linear damage. Each step of the sampler takes several model calls.",
    )  # fmt: skip
    SETTINGS = (
        Setting("inner", "Model calls of each draw from the model. Start with 10.", 1, 1000),
        Setting(
            "hold", least=0, most=1000,
            tooltip="Further turns at the last noise level: more forget the start better. Start with 10.",
        ),
    )  # fmt: skip


NODES = [SplitGibbsNode]
