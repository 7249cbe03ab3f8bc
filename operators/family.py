"""The contract of an operator with unknown parameters, A(theta), and its derivative in theta.

theta is `B K`: each sample has parameters of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor

from .base import Operator

AnyOperator = TypeVar("AnyOperator", bound=Operator)


class Tangent(NamedTuple):
    """A(theta)(x) near a theta: value y `B ...`, push d theta `B K` to J d theta, pull v `B ...` to J^T v `B K`."""

    y: Tensor
    push: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor], Tensor]

    def columns(self, size: int) -> Tensor:
        """J, `B m K`."""
        units = torch.eye(size, dtype=self.y.dtype, device=self.y.device)
        return torch.stack([self.push(unit.expand(len(self.y), size)).flatten(1) for unit in units], 2)


@dataclass(frozen=True)
class Family(ABC):
    """Operators by their parameters."""

    #: in plain words
    label: ClassVar[str]
    #: whether A(theta)(x) is linear in theta, so that theta given x and y has a law in closed form
    linear: ClassVar[bool] = False

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Of the parameters, with units; empty where there are too many to name."""

    @abstractmethod
    def start(self) -> Tensor:
        """theta to begin with, `K`."""

    @abstractmethod
    def bounded(self, theta: Tensor) -> Tensor:
        """The nearest theta for which there is an operator."""

    @abstractmethod
    def operator(self, theta: Tensor) -> Operator:
        """A(theta), for B pictures."""

    @abstractmethod
    def tangent(self, theta: Tensor, x: Tensor) -> Tangent:
        """A(theta)(x), levels with their offset, and its derivative in theta. x: `B C H W`."""

    def kernel(self, theta: Tensor) -> Tensor | None:
        """The blur as a kernel, `B 1 n n`; None where there is none."""
        return None


def told(operator: AnyOperator, family: Family, unknown: bool = False) -> AnyOperator:
    """A new operator that remembers which of a family it is, and whether that is only a guess."""
    operator.family, operator.unknown = family, unknown
    return operator
