"""A program: peak memory of one gradient pass through the SD1.5-shaped network at 64 x 64 latents.

    python memory_probe.py plain|checkpoint FOLDER

prints the megabytes above what the process held before the pass, and the norm of the gradient.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import conftest  # noqa: E402, F401  (registers the package)
import tiny_models  # noqa: E402
import torch  # noqa: E402
from inside_host import Host  # noqa: E402

from posterior.tools import environment  # noqa: E402


def status(field: str) -> float:
    """A line of the kernel's account of this process, in MB."""
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1000


def main(way: str, folder: Path) -> None:
    host = Host(environment.get(None))
    import comfy.model_management
    import comfy.sd

    from posterior.host.autograd.calls import DifferentiableCalls
    from posterior.host.autograd.economy import Economy
    from posterior.host.autograd.gradients import GradientScope

    path = folder / "sd15.safetensors"
    with torch.inference_mode():
        model = comfy.sd.load_diffusion_model(str(path if path.exists() else tiny_models.sd15(path, levels=2)))
        comfy.model_management.load_models_gpu([model])
    sparing = way == "checkpoint"
    with GradientScope([model.model]) as scope, torch.inference_mode(False):
        calls = DifferentiableCalls(scope, Economy(out_of_place=sparing, checkpoint=sparing))
        options = calls.options({})["transformer_options"]
        x = torch.randn(1, 4, 64, 64, generator=torch.manual_seed(0)).requires_grad_()
        context = host.conditioning()[0][0].clone()
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = status("VmRSS")
        x0 = model.model.apply_model(x, torch.tensor([5.0]), c_crossattn=context, transformer_options=options)
        (gradient,) = torch.autograd.grad(x0.square().sum(), x)
        print(status("VmHWM") - before, gradient.norm().item())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
