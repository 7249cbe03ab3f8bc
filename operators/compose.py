"""One thing after another: y = A(B(x))."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..algebra.cache import Cache
from ..algebra.moved import tensors
from .base import LinearOperator, Operator
from .diagonal import Diagonal, Mask, Weight
from .identity import Scale
from .inpainting import Inpainting
from .spectral import SpectralOperator


class Composition(Operator):
    """y = A(B(x)), the chain rule for its Jacobian, and B^+(A^+ y), which is a generalised inverse when B is onto.

    Args:
        outer: A, what happened last.
        inner: B, what happened first.
    """

    def __init__(self, outer: Operator, inner: Operator):
        self.outer, self.inner = outer, inner
        self.label = f"{outer.label} after {inner.label}"
        self.pictorial = outer.pictorial and inner.pictorial
        self.saves = outer.saves

    @property
    def batch(self) -> int:
        return max(self.outer.batch, self.inner.batch)

    @property
    def luma(self) -> Tensor | None:
        return self.outer.luma if self.inner.luma is None else self.inner.luma

    def image_shape(self, measurement_shape: tuple[int, ...]) -> tuple[int, int, int]:
        return self.inner.image_shape((measurement_shape[0], *self.outer.image_shape(measurement_shape)))

    def measurement_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
        return self.outer.measurement_shape(self.inner.measurement_shape(image_shape))

    def check(self, image_shape: tuple[int, int, int]) -> None:
        self.inner.check(image_shape)
        self.outer.check(self.inner.measurement_shape(image_shape))

    def read(self, image: Tensor) -> Tensor:
        return self.inner.read(self.outer.read(image))

    def picture(self, y: Tensor) -> Tensor:
        y = self.outer.picture(y)
        return self.inner.picture(y) if isinstance(self.outer, Diagonal) else y

    def support(self, y: Tensor) -> Tensor | None:
        own = self.outer.support(y)
        if not isinstance(self.outer, Diagonal):
            return own
        inner = self.inner.support(y)  # a weight leaves every number in its place, filler too
        return inner if own is None else own if inner is None else own * inner

    def spread(self, y: Tensor) -> Tensor | None:
        return self.outer.spread(y)

    def reach(self, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        reached, spread = self.inner.reach(hidden)
        return self.outer.reach(reached if spread is None else reached | (spread > 0))

    def forward(self, x: Tensor) -> Tensor:
        return self.outer.forward(self.inner.forward(x))

    def linearise(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        between, pull_inner = self.inner.linearise(x)
        y, pull_outer = self.outer.linearise(between)
        return y, lambda v: pull_inner(pull_outer(v))

    def pinv(self, y: Tensor) -> Tensor:
        return self.inner.pinv(self.outer.pinv(y))


class LinearComposition(LinearOperator, Composition):
    """y = A B x, with (A B)^T = B^T A^T; its inverses are by conjugate gradients."""

    def __init__(self, outer: LinearOperator, inner: LinearOperator):
        super().__init__(outer, inner)
        near = inner if isinstance(inner, SpectralOperator) else inner.nearby
        if isinstance(outer, Mask):  # without some of its numbers y still says much the same
            self.nearby = near
        elif isinstance(outer, Weight) and near is not None:
            self.nearby = compose(Scale(outer.weight.square().mean().sqrt().item()), near)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y))


class WeightedSpectral(SpectralOperator, LinearComposition):
    """y = W A x, where each number of A x is one singular direction of A, or all weights are the same: the singular
    values are multiplied by w."""

    forward = Composition.forward
    adjoint = LinearComposition.adjoint

    def __init__(self, outer: Diagonal, inner: SpectralOperator):
        super().__init__(outer, inner)
        self.aligned, self.local = inner.aligned, inner.local
        self._cache = Cache()

    def singular_values(self, image: Tensor) -> Tensor:
        key = (*image.shape[1:], image.dtype, image.device)
        return self._cache.get(key, lambda: self._weigh(image), *tensors(self.outer), *tensors(self.inner))

    def _weigh(self, image: Tensor) -> Tensor:
        if isinstance(self.outer, Scale):
            return self.outer.factor * self.inner.singular_values(image)
        shape = tuple(image.shape[1:])
        y = image.new_empty(1, *self.inner.measurement_shape(shape))
        weight = self.outer.singular_values(y)
        weight = weight.expand(weight.shape[0], *y.shape[1:])
        return self.inner.singular_values(image) * self.inner.measurement_to_spectrum(weight)

    def to_spectrum(self, x: Tensor) -> Tensor:
        return self.inner.to_spectrum(x)

    def from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        return self.inner.from_spectrum(c, image_shape)

    def measurement_to_spectrum(self, y: Tensor) -> Tensor:
        return self.inner.measurement_to_spectrum(self.outer.measurement_to_spectrum(y))

    def measurement_from_spectrum(self, c: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
        return self.outer.measurement_from_spectrum(self.inner.measurement_from_spectrum(c, image_shape), image_shape)

    def multiplicity(self, image: Tensor) -> float | Tensor:
        return self.inner.multiplicity(image)


def compose(outer: Operator, inner: Operator) -> Operator:
    """A after B, with the best inverse that the two allow.

    A mask marks what something lay over, and A(x) does not know what: no number that this reaches says anything about
    x. So A after a mask is a mask, of all that the hole reaches, after A; and where A was a file that was saved, a mask
    of what is in the file marks what was there before. Holes of what is no picture (only simulated ones) are black.
    """
    if isinstance(outer, Inpainting) and inner.saves:
        return _compose(outer.through(inner.outer if isinstance(inner, Composition) else inner), inner)
    mask, rest = _masked(inner)
    if mask is None or isinstance(outer, Mask | Weight) or not outer.pictorial:
        return _compose(outer, inner)
    return _compose(mask.through(outer), outer if rest is None else compose(outer, rest))


def _masked(operator: Operator) -> tuple[Inpainting | None, Operator | None]:
    """The mask that comes last, if there is one, and what comes before it."""
    if isinstance(operator, Composition) and isinstance(operator.outer, Inpainting):
        return operator.outer, operator.inner
    return (operator, None) if isinstance(operator, Inpainting) else (None, None)


def _compose(outer: Operator, inner: Operator) -> Operator:
    if isinstance(inner, SpectralOperator) and (
        isinstance(outer, Scale) or (isinstance(outer, Diagonal) and inner.aligned)
    ):
        return WeightedSpectral(outer, inner)
    if outer.linear and inner.linear:
        return LinearComposition(outer, inner)
    return Composition(outer, inner)
