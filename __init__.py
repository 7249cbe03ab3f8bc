"""Posterior: inverse problems with the diffusion model that is already loaded in ComfyUI."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """The host calls this once; the nodes are imported here, so that the mathematics needs no host."""
    from .nodes.extension import PosteriorExtension

    return PosteriorExtension()
