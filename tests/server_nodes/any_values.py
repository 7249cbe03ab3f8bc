"""A node for the test server: anything out of a socket that fits everywhere, as "any" nodes of other packs have it."""

import torch


class Fitting(str):
    """A type that no other one differs from."""

    def __ne__(self, other):
        return False


VALUES = {
    "None": None, "text": "some text", "no text": "", "number": 2.5, "NaN": float("nan"), "infinite": float("inf"),
    "negative": -7, "large": 10**12, "yes": True, "dictionary": {}, "list": [], "three numbers": torch.zeros(3),
    "an object": object(), "empty latent": {"samples": torch.zeros(0, 3, 8, 8)},
    "latent of words": {"samples": "words"}, "a pair": (1, 2), "words": ["a", "b"],
}  # fmt: skip


class AnyValue:
    RETURN_TYPES = (Fitting("*"),)
    FUNCTION = "make"
    CATEGORY = "testing"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"what": (["value", *VALUES],)}, "optional": {"value": (Fitting("*"),)}}

    def make(self, what, value=None):
        return (VALUES.get(what, value),)


NODE_CLASS_MAPPINGS = {"TestAny": AnyValue}
