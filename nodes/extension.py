"""What the host registers."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from ..host.prior_files import register_folders

register_folders()  # before the nodes list what is in them

from . import guidance, measurement, operators, priors, samplers  # noqa: E402


class PosteriorExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            node for family in (operators, measurement, guidance, samplers, priors) for node in family.NODES
        ]
