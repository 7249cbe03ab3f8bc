"""Reading priors: the pack's own weights, and published checkpoints in the host's model folders."""

from __future__ import annotations

from pathlib import Path

import comfy.utils
import folder_paths
from safetensors.torch import load_file

from ..operators.errors import Refusal
from ..priors.ffdnet import SIGMA_MAX, FFDNet
from ..priors.unet import SIGMA_DATA, PhotoUNet
from .pixel_model import pixel_model

#: the folder below the host's models where denoisers are looked for
DENOISERS = "posterior_denoisers"
_PHOTO_PRIOR = Path(__file__).parent.parent / "priors" / "photo_prior.safetensors"


def register_folders() -> None:
    """Tells the host where denoisers lie."""
    folder_paths.add_model_folder_path(DENOISERS, str(Path(folder_paths.models_dir) / DENOISERS))


def load_photo_prior():
    """The embedded photo prior as a MODEL."""
    weights = {key: value.float() for key, value in load_file(_PHOTO_PRIOR).items()}
    sampling = {"sigma_min": 0.01, "sigma_max": 80.0, "sigma_data": SIGMA_DATA}
    return pixel_model(PhotoUNet, PhotoUNet.config_from_state_dict(weights), weights, sampling)


def load_denoiser(name: str):
    """A published Gaussian denoiser as a MODEL.

    Args:
        name: a file in the host's folder for denoisers.

    Raises:
        Refusal: when the file holds no denoiser that is known here.
    """
    weights = comfy.utils.load_torch_file(folder_paths.get_full_path_or_raise(DENOISERS, name), safe_load=True)
    try:
        config = FFDNet.config_from_state_dict(weights)
    except (AttributeError, IndexError, KeyError, ValueError):
        raise Refusal(f"{name} is not a denoiser that is known here; choose an FFDNet file.") from None
    if config["channels"] != 3:
        raise Refusal(f"{name} denoises gray pictures; choose its colour version.")
    sampling = {"sigma_min": 0.002, "sigma_max": 2 * SIGMA_MAX, "sigma_data": 1.0}
    return pixel_model(FFDNet, config, weights, sampling, denoiser=True)
