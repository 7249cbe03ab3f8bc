"""What the host registers."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from ..host.models.prior_files import register_folders
from ..host.watch import watched_node
from .given import checking_node

register_folders()  # before the nodes list what is in them

from . import (  # noqa: E402
    answers,
    compare,
    diagnose,
    diagnose_blur,
    diagnose_picture,
    examples,
    finish,
    guidance,
    guidance_latent,
    guidance_linear,
    guidance_tools,
    inspect,
    measurement,
    operators,
    priors,
    priors_analytic,
    samplers,
    samplers_blind,
    samplers_few,
    samplers_mcmc,
    samplers_particles,
    samplers_variational,
    trajectories,
)


class PosteriorExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        guides = (guidance_tools, guidance, guidance_linear, guidance_latent)
        seen = (operators, measurement, diagnose, diagnose_blur, diagnose_picture, examples, finish)
        walks = (samplers, trajectories, samplers_mcmc, samplers_particles, samplers_variational)
        walks = (*walks, samplers_blind, samplers_few)
        families = (*seen, *guides, *walks, priors, priors_analytic, inspect, answers, compare)
        return [watched_node(checking_node(node)) for family in families for node in family.NODES]
