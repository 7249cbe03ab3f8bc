"""A node for the test server: text conditioning of random numbers, since the tiny checkpoints have no text encoder."""

import torch


class RandomConditioning:
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "make"
    CATEGORY = "testing"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"width": ("INT", {"default": 768}), "pooled": ("INT", {"default": 0})}}

    def make(self, width, pooled):
        generator = torch.Generator().manual_seed(0)
        extra = {"pooled_output": torch.randn(1, pooled, generator=generator)} if pooled else {}
        return ([[torch.randn(1, 4, width, generator=generator), extra]],)


NODE_CLASS_MAPPINGS = {"TestRandomConditioning": RandomConditioning}
