"""What reaches a node is what its inputs ask for, or is refused in a sentence.

The host compares the names of types and the range of numbers that are typed in. It does not see what comes out of the
"any" sockets of other packs, NaN, numbers that come from another node, or choices that are not on the list.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from numbers import Real
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..algebra.refusal import Refusal
from ..host.record import RunRecord
from ..host.run import Guide
from ..measurement.measurement import Measurement
from ..operators.base import Operator

#: what travels through a socket of each type
TRAVELS: dict[str, Callable[[Any], bool]] = {
    "IMAGE": lambda value: isinstance(value, Tensor),
    "MASK": lambda value: isinstance(value, Tensor),
    "SIGMAS": lambda value: isinstance(value, Tensor),
    "LATENT": lambda value: isinstance(value, dict) and isinstance(value.get("samples"), Tensor),
    "CONDITIONING": lambda value: isinstance(value, list) and all(isinstance(part, (list, tuple)) for part in value),
    "MODEL": lambda value: hasattr(value, "model") and hasattr(value, "clone"),
    "VAE": lambda value: hasattr(value, "encode") and hasattr(value, "decode") and not isinstance(value, str),
    "SAMPLER": lambda value: hasattr(value, "sample"),
    "STRING": lambda value: isinstance(value, str),
    "BOOLEAN": lambda value: isinstance(value, bool),
    "MEASUREMENT_OPERATOR": lambda value: isinstance(value, Operator),
    "MEASUREMENT": lambda value: isinstance(value, Measurement),
    "LIKELIHOOD_GUIDANCE": lambda value: isinstance(value, tuple) and all(isinstance(part, Guide) for part in value),
    "CONVERGENCE": lambda value: isinstance(value, RunRecord),
    "JPEG_FILE": lambda value: isinstance(value, dict) and "tables" in value,
}


def checked(input: io.Input, value: Any) -> Any:
    """The value as the node takes it.

    Raises:
        Refusal: when it is not of the input's type, is no number, lies outside the range or is no choice.
    """
    kind = input.get_io_type()
    if kind in ("INT", "FLOAT"):
        return _number(input, value, int if kind == "INT" else float)
    if kind == "COMBO":
        if not isinstance(value, str) or (input.default is not None and value not in input.options):
            raise Refusal(f"The input {input.id} is {_said(value)}; choose one of its list.")
    elif kind in TRAVELS and not TRAVELS[kind](value):
        raise Refusal(f"The input {input.id} is {_said(value)}; connect the output of a node that gives {kind}.")
    return value


def _number(input: io.Input, value: Any, kind: type) -> Any:
    low, high = (input.min if input.min is not None else -math.inf), (input.max if input.max is not None else math.inf)
    if isinstance(value, Real) and low <= value <= high and abs(value) < math.inf and kind(value) == value:
        return kind(value)
    whole = "a whole number" if kind is int else "a number"
    raise Refusal(f"The input {input.id} is {_said(value)}; give {whole} from {low:g} to {high:g}.")


def _said(value: Any) -> str:
    """A value in a few words."""
    if value is None or isinstance(value, Real):
        return f"{value:g}" if isinstance(value, float) else str(value)[:40]
    if isinstance(value, str):
        return f'"{value[:40]}"' if value.isprintable() else "a text with odd characters"
    return f"of the type {type(value).__name__}"


def checking_node(node: type) -> type:
    """The node, which looks at what it is given before it works. Nothing in an optional input counts as not connected."""
    execute: Callable = node.execute.__func__

    @functools.wraps(execute)
    def checking(cls, *args, **kwargs):
        for input in node.define_schema().inputs or ():
            if input.id in kwargs and input.optional and kwargs[input.id] is None:
                del kwargs[input.id]
            elif input.id in kwargs:
                kwargs[input.id] = checked(input, kwargs[input.id])
        return execute(cls, *args, **kwargs)

    return type(node.__name__, (node,), {"execute": classmethod(checking), "__module__": node.__module__})
