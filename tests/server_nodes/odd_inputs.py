"""Nodes for the test server: pictures, masks, noise levels and VAEs as other packs may hand them over."""

import comfy.sd
import torch

SIZE = 32


def _numbers(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


IMAGES = {
    "plain": lambda: _numbers(1, SIZE, SIZE, 3),
    "two": lambda: _numbers(2, SIZE, SIZE, 3),
    "three": lambda: _numbers(3, SIZE, SIZE, 3),
    "none": lambda: _numbers(0, SIZE, SIZE, 3),
    "H W C": lambda: _numbers(SIZE, SIZE, 3),
    "H W": lambda: _numbers(SIZE, SIZE),
    "B H W": lambda: _numbers(1, SIZE, SIZE),
    "frames": lambda: _numbers(1, 2, SIZE, SIZE, 3),
    "grey": lambda: _numbers(1, SIZE, SIZE, 1),
    "two channels": lambda: _numbers(1, SIZE, SIZE, 2),
    "alpha": lambda: _numbers(1, SIZE, SIZE, 4),
    "half": lambda: _numbers(1, SIZE, SIZE, 3).half(),
    "bfloat16": lambda: _numbers(1, SIZE, SIZE, 3).bfloat16(),
    "double": lambda: _numbers(1, SIZE, SIZE, 3).double(),
    "strided": lambda: _numbers(1, 3, SIZE, SIZE).movedim(1, -1),
    "bytes": lambda: (255 * _numbers(1, SIZE, SIZE, 3)).byte(),
    "0..255": lambda: 255 * _numbers(1, SIZE, SIZE, 3),
    "exr": lambda: 3 * _numbers(1, SIZE, SIZE, 3),
    "signed": lambda: 2 * _numbers(1, SIZE, SIZE, 3) - 1,
    "a few outside": lambda: _numbers(1, SIZE, SIZE, 3).index_fill(1, torch.tensor([0]), 1.05),
    "nan": lambda: _numbers(1, SIZE, SIZE, 3).index_fill(1, torch.tensor([5]), torch.nan),
    "inf": lambda: _numbers(1, SIZE, SIZE, 3).index_fill(1, torch.tensor([5]), torch.inf),
    "1 x 1": lambda: _numbers(1, 1, 1, 3),
    "1 x 32": lambda: _numbers(1, 1, SIZE, 3),
    "48 x 32": lambda: _numbers(1, SIZE, 48, 3),
}


def _stroke(*shape):
    mask = torch.zeros(shape)
    mask[..., 10:13, 4:20] = 1
    return mask


MASKS = {
    "plain": lambda: _stroke(1, SIZE, SIZE),
    "two": lambda: _stroke(2, SIZE, SIZE),
    "three": lambda: _stroke(3, SIZE, SIZE),
    "one of two empty": lambda: torch.cat([_stroke(1, SIZE, SIZE), torch.zeros(1, SIZE, SIZE)]),
    "none": lambda: _stroke(0, SIZE, SIZE),
    "H W": lambda: _stroke(SIZE, SIZE),
    "B 1 H W": lambda: _stroke(1, 1, SIZE, SIZE),
    "B C H W": lambda: _stroke(1, 4, SIZE, SIZE),
    "line": lambda: torch.ones(SIZE),
    "half": lambda: _stroke(1, SIZE, SIZE).half(),
    "double": lambda: _stroke(1, SIZE, SIZE).double(),
    "bool": lambda: _stroke(1, SIZE, SIZE).bool(),
    "bytes": lambda: (255 * _stroke(1, SIZE, SIZE)).byte(),
    "0..255": lambda: 255 * _stroke(1, SIZE, SIZE),
    "nan": lambda: _stroke(1, SIZE, SIZE).index_fill(1, torch.tensor([5]), torch.nan),
    "empty": lambda: torch.zeros(1, SIZE, SIZE),
    "full": lambda: torch.ones(1, SIZE, SIZE),
    "grey black": lambda: 0.0627 + 0.85 * _stroke(1, SIZE, SIZE),
    "inverted": lambda: 1 - _stroke(1, SIZE, SIZE),
    "1 x 1": lambda: torch.ones(1, 1, 1),
    "48 x 32": lambda: _stroke(1, SIZE, 48),
}
SIGMAS = {
    "plain": [10.0, 1.0, 0.1, 0.0],
    "equal": [10.0, 1.0, 1.0, 0.0],
    "rising": [0.1, 1.0, 10.0],
    "nan": [10.0, float("nan"), 0.0],
    "infinite": [float("inf"), 1.0, 0.0],
    "negative": [10.0, 1.0, -1.0],
    "zeros": [0.0, 0.0],
    "one": [10.0],
    "empty": [],
}


def _blind():
    """A VAE that makes NaN of all that it sees."""
    from comfy.taesd.taesd import TAESD

    weights = TAESD(latent_channels=4).state_dict()
    vae = comfy.sd.VAE(sd={key: value.detach().clone() for key, value in weights.items()})
    for weight in vae.first_stage_model.parameters():
        weight.data.fill_(torch.nan)
    return vae


VAES = {"None": lambda: None, "empty": lambda: comfy.sd.VAE(sd={}), "NaN": _blind}


def _node(kind, makers):
    class Odd:
        RETURN_TYPES = (kind,)
        FUNCTION = "make"
        CATEGORY = "testing"

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"what": (list(makers),)}}

        def make(self, what):
            made = makers[what]
            return (made() if callable(made) else torch.tensor(made),)

    return Odd


NODE_CLASS_MAPPINGS = {
    "TestOddImage": _node("IMAGE", IMAGES),
    "TestOddMask": _node("MASK", MASKS),
    "TestOddSigmas": _node("SIGMAS", SIGMAS),
    "TestOddVAE": _node("VAE", VAES),
}
