"""What all operator nodes share."""

from __future__ import annotations

from collections.abc import Sequence

from comfy_api.latest import io

from ..operators.convolution import BOUNDARIES
from .search import found_by
from .sockets import Operator

CATEGORY = "posterior/operators"


def operator_schema(node_id: str, display_name: str, description: str, inputs: Sequence[io.Input] = ()) -> io.Schema:
    return io.Schema(
        node_id=node_id,
        display_name=display_name,
        category=CATEGORY,
        description=description,
        inputs=list(inputs),
        **found_by(node_id),
        outputs=[Operator.Output("operator", display_name="operator", tooltip="What happened to the picture.")],
    )


def seed_input(what: str) -> io.Int.Input:
    return io.Int.Input(
        "seed", default=0, min=0, max=2**53, control_after_generate=False,
        tooltip=f"Chooses {what}; the same number gives the same choice. Start with 0.",
    )  # fmt: skip


def boundary_input(optional: bool = False) -> io.Combo.Input:
    return io.Combo.Input(
        "boundary", options=list(BOUNDARIES), default="reflect", optional=optional,
        tooltip="What lay beyond the frame. reflect: much the same as at the edge, for most photos. circular: it goes on "
        "at the other side; fastest, open to every method. valid: unknown, the solved picture gets larger than the blurred "
        "one. Start with reflect.",
    )  # fmt: skip


def estimate_input() -> io.Boolean.Input:
    return io.Boolean.Input(
        "estimate", default=False, optional=True,
        tooltip="off: the numbers are right. on: they are a guess, and Solve Inverse Problem finds better ones in the "
        "picture and says which; all other nodes take them as they are. Start with off.",
    )  # fmt: skip
