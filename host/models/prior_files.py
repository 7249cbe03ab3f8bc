"""Reading priors: the pack's own weights, and published checkpoints in the host's model folders."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import folder_paths
import torch
from safetensors.torch import load_file
from torch import Tensor

from ...algebra.refusal import Refusal
from ...measurement.measurement import Measurement
from ...priors import diffusers_unet
from ...priors.adm import ADM
from ...priors.dncnn import DnCNN
from ...priors.drunet import DRUNet
from ...priors.ffdnet import FFDNet
from ...priors.flow import GrayFlow
from ...priors.given import OPERATORS, laid_out, same_operator
from ...priors.gray import GrayAsColour, Told
from ...priors.unet import SIGMA_DATA, PhotoUNet
from .pixel_model import pixel_model
from .weight_files import read_metadata, read_weights, require_fit, weight_file

#: the folder below the host's models where denoisers are looked for
DENOISERS = "posterior_denoisers"
#: the host's folder for diffusion models without a text encoder
CHECKPOINTS = "diffusion_models"
#: the host's names of the noise schedules of guided-diffusion and of diffusers
SCHEDULES = {"linear": "sqrt_linear", "scaled_linear": "linear", "cosine": "squaredcos_cap_v2"}
#: noise levels that no training has
MOST_STEPS = 100_001
_PRIORS = Path(__file__).parents[2] / "priors"
_NOT_ITS_WEIGHTS = (ArithmeticError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


def register_folders() -> None:
    """Tells the host where denoisers lie."""
    folder_paths.add_model_folder_path(DENOISERS, str(Path(folder_paths.models_dir) / DENOISERS))


def load_photo_prior():
    """The embedded photo prior as a MODEL."""
    return _trained_here(load_file(_PRIORS / "photo_prior.safetensors"))


def load_digits_prior(form: str = "diffusion"):
    """The embedded digits prior as a MODEL of RGB pictures.

    Args:
        form: "diffusion"; "flow", the same network as a flow model; "few steps", a flow model distilled from it.
    """
    weights = load_file(_PRIORS / f"digits_{'few' if form == 'few steps' else 'prior'}.safetensors")
    if form == "diffusion":
        return _trained_here(weights)
    weights = {f"gray.{key}": value.float() for key, value in weights.items()}
    return pixel_model(GrayFlow, GrayFlow.config_from_state_dict(weights), weights, {"multiplier": 1.0}, "flow")


def _trained_here(weights: dict[str, Tensor], given: Tensor | None = None):
    """A MODEL of RGB pictures out of a `PhotoUNet`.

    Args:
        weights: of a network of RGB or of gray pictures.
        given: what one that was trained with a measurement is told, `B 3 H W` in [-1, 1].
    """
    gray = weights["head.weight"].shape[0] == 4
    network = GrayAsColour if gray else PhotoUNet
    weights = {f"gray.{key}" if gray else key: value.float() for key, value in weights.items()}
    config, make = network.config_from_state_dict(weights), network
    require_fit(network, config, weights)
    if given is not None:
        weights = {"given": given, **{f"network.{key}": value for key, value in weights.items()}}
        make = lambda **settings: Told(network(**settings), given)  # noqa: E731
    sampling = {"sigma_min": 0.01, "sigma_max": 80.0, "sigma_data": SIGMA_DATA}
    return pixel_model(make, config, weights, sampling, "denoised" if gray else "edm")


def load_digits_enlarger(small: Tensor):
    """The digits prior that was trained to enlarge four times, told a small digit, as a MODEL of RGB pictures.

    Args:
        small: `B 3 8 8` in [0, 1], one for all samples or one for each.

    Raises:
        Refusal: for another size.
    """
    if tuple(small.shape[-2:]) != (8, 8):
        raise Refusal(f"The small picture is {small.shape[-1]} x {small.shape[-2]}; give a digit of 8 x 8 pixels.")
    given = laid_out(OPERATORS["super_resolution_x4_box"](), small)
    return _trained_here(load_file(_PRIORS / "digits_x4.safetensors"), given)


def load_supervised_prior(name: str, measurement: Measurement):
    """A model that `priors/train.py --operator` has trained, told a measurement, as a MODEL of RGB pictures.

    Args:
        name: a file in the host's folder for diffusion models.
        measurement: of the operator that it was trained for.

    Raises:
        Refusal: when the file is no such model, or was trained for another operator.
    """
    weights = read_weights(CHECKPOINTS, name)
    about = read_metadata(weight_file(CHECKPOINTS, name))
    task = about.get("operator")
    if task not in OPERATORS:
        raise Refusal(f"{name} is not a supervised prior; make one with priors/train.py --operator, or choose another.")
    operator, y = measurement.operator, measurement.y.float()
    if not same_operator(task, operator, measurement.image_shape):
        raise Refusal(
            f"{name} was trained for {task.replace('_', ' ')}, and the measurement is {operator.label} (or of another "
            "strength); choose that operator, or guide the Embedded Photo Prior, which takes any."
        )
    trained, seen = float(about.get("noise", 0)), float(torch.as_tensor(measurement.noise.deviation(y)).mean())
    if abs(seen - trained) > 0.01 + trained / 4:
        logging.warning("%s was trained for a noise of %.3g and the measurement has %.3g.", name, trained, seen)
    try:
        return _trained_here(weights, laid_out(operator, y))
    except _NOT_ITS_WEIGHTS:
        raise Refusal(f"{name} has layers that do not fit together; export it again.") from None


def load_denoiser(name: str):
    """A published Gaussian denoiser as a MODEL; which one is found from its weights.

    Args:
        name: a file in the host's folder for denoisers.

    Raises:
        Refusal: when the file holds no denoiser that is known here.
    """
    weights = read_weights(DENOISERS, name)
    for network in (FFDNet, DRUNet, DnCNN):
        try:
            config = network.config_from_state_dict(weights)
            require_fit(network, config, weights)
            sampling = {"sigma_min": 0.002, "sigma_max": 2 * network.sigma_max, "sigma_data": 1.0}
            return pixel_model(network, config, weights, sampling, "denoised")
        except _NOT_ITS_WEIGHTS:
            continue
    raise Refusal(f"{name} is not a denoiser that is known here; choose a file of FFDNet, DRUNet or DnCNN.")


def load_checkpoint(name: str, schedule: str = "linear", label: int = 0, **attention: Any):
    """A published pixel-space diffusion model as a MODEL: guided-diffusion's ADM, or diffusers' UNet2DModel.

    Args:
        name: a file in the host's folder for diffusion models; diffusers' config.json lies beside it.
        schedule: noise schedule of the training where no scheduler_config.json says it, one of `SCHEDULES`.
        label: the class, for class-conditional models.
        attention: `head_channels`, `heads` and `interleaved` as in `ADM`, whose files do not tell.

    Raises:
        Refusal: when the file holds no model that is known here.
    """
    weights = read_weights(CHECKPOINTS, name)
    sampling = {"beta_schedule": SCHEDULES[schedule], "linear_start": 1e-4, "linear_end": 0.02, "timesteps": 1000}
    prediction, options = "epsilon", attention
    if "conv_in.weight" in weights and "down_blocks.0.resnets.0.norm1.weight" in weights:
        path = weight_file(CHECKPOINTS, name)
        options = diffusers_unet.options(_config(path))
        sampling, prediction = _scheduler(path, sampling)
        weights = _translated(name, weights)
    try:
        config = ADM.config_from_state_dict(weights)
    except _NOT_ITS_WEIGHTS:
        raise Refusal(
            f"{name} is not a pixel-space model that is known here; choose a guided-diffusion (ADM) file or diffusers' "
            "UNet2DModel, and load latent models (SD, SDXL, Flux ...) with the nodes of ComfyUI."
        ) from None
    channels = weights["input_blocks.0.0.weight"].shape[1]
    if channels != 3 or config["outputs"] not in (3, 6):
        raise Refusal(f"{name} works on {channels} channels; choose a model of RGB pictures.")
    try:
        dtypes, config = (torch.bfloat16, torch.float32), {**config, **options, "label": label}
        require_fit(ADM, config, weights)
        return pixel_model(ADM, config, weights, sampling, prediction, dtypes, 0.07)
    except Refusal:
        raise
    except _NOT_ITS_WEIGHTS:
        raise Refusal(f"{name} has layers that do not fit together; take the complete file from its author.") from None


def _translated(name: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    try:
        return diffusers_unet.translate(weights)
    except _NOT_ITS_WEIGHTS:
        raise Refusal(f"{name} has parts that UNet2DModel does not have; choose another model.") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Refusal(f"{path.name} beside the model is damaged; take it from the model's author again.")
    return value


def _config(path: Path) -> dict[str, Any]:
    """config.json in the folder of a diffusers model, or a file of the model's own name."""
    for candidate in (path.with_suffix(".json"), path.with_name("config.json")):
        if candidate.is_file():
            return _json(candidate)
    raise Refusal(f"{path.name} is a model of diffusers; put its config.json beside it, as {path.stem}.json.")


def _scheduler(path: Path, sampling: dict) -> tuple[dict, str]:
    """Noise levels and prediction by scheduler_config.json, beside the model or in diffusers' own folder for it."""
    name = "scheduler_config.json"
    found = [file for file in (path.with_name(name), path.parent.parent / "scheduler" / name) if file.is_file()]
    if not found:
        return sampling, "epsilon"
    config = _json(found[0])
    names = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
    predictions = {"epsilon": "epsilon", "v_prediction": "v"}
    schedule, prediction = (
        str(config.get(key, usual)) for key, usual in (("beta_schedule", "linear"), ("prediction_type", "epsilon"))
    )
    if schedule not in names or prediction not in predictions:
        raise Refusal(f"This model was trained with {schedule} / {prediction}, which is not known; choose another one.")
    start, end = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    steps = config.get("num_train_timesteps", 1000)
    if not all(isinstance(number, (int, float)) for number in (start, end, steps)) or not (
        0 < start <= end < 1 and steps in range(1, MOST_STEPS)
    ):
        raise Refusal(f"The {name} beside the model has no noise levels that can be; take it from the author again.")
    settings = {
        "beta_schedule": SCHEDULES[names[schedule]], "linear_start": start, "linear_end": end, "timesteps": steps,
        "zsnr": bool(config.get("rescale_betas_zero_snr", False)),
    }  # fmt: skip
    return settings, predictions[prediction]
