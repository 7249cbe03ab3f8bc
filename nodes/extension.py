"""What the host registers."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from ..host.prior_files import register_folders

register_folders()  # before the nodes list what is in them

from . import guidance, guidance_linear, guidance_tools, measurement, operators, priors, samplers  # noqa: E402


class PosteriorExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        guides = (guidance_tools, guidance, guidance_linear)
        return [node for family in (operators, measurement, *guides, samplers, priors) for node in family.NODES]
