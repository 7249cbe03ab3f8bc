"""What operators work out once: kept in the machine's memory, and gone from a device with the run's copy."""

from __future__ import annotations

import gc
import weakref

import torch

from posterior.algebra.cache import Cache
from posterior.operators import kernels
from posterior.operators.convolution import CircularConvolution


def test_a_copy_on_another_device_keeps_what_it_works_out_to_itself():
    """Case D6: an operator lives as long as its node, its copy on a device as long as the run."""
    operator = CircularConvolution(kernels.gaussian(1.0))
    operator.forward(torch.zeros(1, 1, 16, 16))
    same, moved = operator.to("cpu", torch.float32), operator.to("meta", torch.float32)
    assert same._cache is operator._cache and len(operator._cache._values) == 1
    moved.forward(torch.zeros(1, 1, 16, 16, device="meta"))
    again = moved.to(torch.device("meta"), torch.float32)
    assert again._cache is moved._cache and len(moved._cache._values) == len(operator._cache._values) == 1
    (value,) = moved._cache._values.values()
    held = weakref.ref(value)
    del moved, again, value
    gc.collect()
    assert held() is None


def test_the_last_few_values_are_kept():
    cache, made = Cache(2), []
    for key in "abacab":
        assert cache.get(key, lambda key=key: made.append(key) or key) == key
    assert made == ["a", "b", "c", "b"]
