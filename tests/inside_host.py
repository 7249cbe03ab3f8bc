"""The host itself, imported into this process: its own loaders, nodes and samplers, with objects to look at."""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

import posterior
from posterior.tools.environment import Environment

EXTRAS = ("custom_sampler", "hooks", "mask", "sd3", "cond", "model_advanced", "easycache", "edit_model")


def awaited(coroutine: Coroutine) -> Any:
    """Its result, by an event loop in another thread: a browser test keeps one in this thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


class Host:
    """ComfyUI on the CPU, with a folder of its own, whose nodes are called as the executor calls them."""

    def __init__(self, environment: Environment) -> None:
        folder = environment.host
        sys.path.insert(0, str(folder))
        import comfy.cli_args

        comfy.cli_args.args.cpu = True
        comfy.cli_args.args.base_directory = tempfile.mkdtemp(prefix="posterior-host-")
        level = logging.getLogger().level
        import folder_paths

        import nodes

        self.nodes = nodes
        torch.set_num_threads(1)  # the networks are tiny, and more threads wait for each other
        for kind in (kind for models in environment.models for kind in models.iterdir()):
            folder_paths.add_model_folder_path(kind.name, str(kind))
        for name in EXTRAS:
            path = folder / "comfy_extras" / f"nodes_{name}.py"
            assert awaited(nodes.load_custom_node(str(path), module_parent="comfy_extras")), name
        for node in awaited(_own_nodes()):
            nodes.NODE_CLASS_MAPPINGS[node.GET_SCHEMA().node_id] = node
        logging.getLogger().setLevel(level)

    def call(self, node_id: str, **inputs: Any) -> Any:
        """The outputs of a node, or its only output; under inference mode, as every prompt runs.

        Inputs of V3 nodes that are left out have their default.
        """
        node = self.nodes.NODE_CLASS_MAPPINGS[node_id]
        with torch.inference_mode():
            if hasattr(node, "GET_SCHEMA"):
                asked = {item.id: item for item in node.GET_SCHEMA().inputs or () if not item.optional}
                defaults = {key: getattr(item, "default", None) for key, item in asked.items()}
                defaults = {key: value for key, value in defaults.items() if value is not None}
                outputs = node.execute(**{**defaults, **inputs}).result
            else:
                outputs = getattr(node(), node.FUNCTION)(**inputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def conditioning(self, tokens: int = 4, width: int = 768, pooled: int = 0, seed: int = 0, batch: int = 1) -> list:
        """A random text embedding."""
        with torch.inference_mode():
            generator = torch.Generator().manual_seed(seed)
            extra = {"pooled_output": torch.randn(batch, pooled, generator=generator)} if pooled else {}
            return [[torch.randn(batch, tokens, width, generator=generator), extra]]

    def latent(self, *shape: int, seed: int | None = None) -> dict:
        """An empty LATENT, or a random one."""
        with torch.inference_mode():
            if seed is None:
                return {"samples": torch.zeros(shape)}
            return {"samples": torch.randn(shape, generator=torch.Generator().manual_seed(seed))}

    def sample(self, model, sampler, sigmas: Tensor, latent: dict, positive=None, negative=None, cfg=1.0, seed=1):
        """SamplerCustomAdvanced: the samples, and the last denoised prediction."""
        positive = positive or [[None, {}]]
        guider = self.call("CFGGuider", model=model, positive=positive, negative=negative or positive, cfg=cfg)
        noise = self.call("RandomNoise", noise_seed=seed)
        if isinstance(sampler, str):
            sampler = self.call("KSamplerSelect", sampler_name=sampler)
        output, denoised = self.call(
            "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=latent
        )
        return output["samples"].clone(), denoised["samples"].clone()

    def objects(self, *modules: torch.nn.Module) -> list[Any]:
        """The very parameters, buffers and forward functions of some modules."""
        tables = [(m._parameters, m._buffers) for root in modules for m in root.modules()]
        own = [m.__dict__.get("forward") for root in modules for m in root.modules()]
        return [value for pair in tables for table in pair for value in table.values()] + own

    def functions(self) -> dict[str, Any]:
        """Every function, class and method of the host, by name: what a pack must not replace."""
        found = {}
        for module_name, module in list(sys.modules.items()):
            if module is None or module_name.split(".")[0] not in ("comfy", "comfy_extras", "nodes", "latent_preview"):
                continue
            for name, value in list(vars(module).items()):
                if callable(value):
                    found[f"{module_name}.{name}"] = value
                if isinstance(value, type) and value.__module__ == module_name:
                    found.update({f"{module_name}.{name}.{key}": item for key, item in vars(value).items()})
        return found


async def _own_nodes() -> list:
    return await (await posterior.comfy_entrypoint()).get_node_list()
