"""The change of x0_hat that moves a step of any of the host's samplers as an after-step recipe asks.

Published DPS and its kin add a shift to the state, x_s += vp_norm_s shift, once a step. Inside a sampler of the host
guidance has only x0_hat to act on. Whatever the sampler (ancestral, SDE, multistep, CFG++, one that wraps another),
its states are linear in the predictions that it is given, so how much of a change arrives is measured on the sampler
itself: it runs on a row of numbers in place of a picture, and the k-th call of the model answers with the k-th unit
vector. What it then hands to the model is the weight of each earlier call in that state.

A recipe's shift is taken at the first call of a step, and its change is made at the last call that weighs in the next
state, so that no call in between sees it. With M_ij the weight of the change of step j in the state at which step i
begins, and f_i what is left of that state in the next one, step i takes the change

    c_i = (vp_norm_{i+1} shift_i + sum_{j<i} (f_i M_ij - M_{i+1,j}) c_j) / M_{i+1,i}

so that each shift is made once, and fades as the state does that it moved. The sum is what a multistep sampler would
bring back of its past; it is empty for the others. A deterministic step of first order has
M_{i+1,i} = alpha_s - alpha_t sigma_s / sigma_t, which also stands for samplers that cannot be measured.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import comfy.model_management
import torch
from torch import Tensor

from ..diffusion.level import Level

#: calls of the model that one step may make
_CALLS = 4
#: what of the past is too little to be set off, of a step's own shift
_LITTLE = 1e-3
#: what a call must weigh in the next state to take the change of its step, of the most that one of them does
_ENOUGH = 0.25
#: a weight that is none
_NOTHING = 1e-6


def first_order(t: Level, s: Level) -> float:
    """What x0_hat weighs in x_s after a deterministic step of first order; where there is no step, after a full one."""
    return s.alpha - t.alpha * s.sigma / t.sigma or max(s.alpha, 1e-6)


@dataclass
class Response:
    """How a sampler answers to what the model says, for n steps and K calls of the model.

    Args:
        begins, acting: the call with which each step begins, and the one that takes its change, n numbers each.
        sigmas: of each call, K numbers.
        ends: sigma at which each step ends, n numbers.
        weight: M_{i+1,i}, n numbers.
        past: f_i M_ij - M_{i+1,j}, `n n`, lower triangular.
    """

    begins: list[int]
    acting: list[int]
    sigmas: list[float]
    ends: list[float]
    weight: list[float]
    past: Tensor


class Unmeasured(Exception):
    """A sampler that cannot be measured, and why."""


class _Probe:
    """A model of a row of numbers whose k-th answer is `amount` times the k-th unit vector.

    Args:
        guider: the host's, for what samplers look up in it.
        sigmas: its SIGMAS.
    """

    def __init__(self, guider, sigmas: Tensor, amount: float):
        self.inner_model, self.sigmas, self.amount = guider, sigmas, amount
        self.states: list[Tensor] = []
        self.levels: list[float] = []
        self.begins: list[int] = []
        self.latent_image = self.noise = sigmas.new_zeros(1, 1, 1, _CALLS * len(sigmas) + 1)

    def __call__(self, x: Tensor, sigma: Tensor, model_options: dict | None = None, **_) -> Tensor:
        self.states.append(x.flatten().clone())
        if len(self.states) == x.numel():
            raise Unmeasured("it calls the model too often")
        self.levels.append(float(sigma.flatten()[0]))
        answer = torch.zeros_like(x)
        # samplers of the CFG++ kind listen here, before guidance adds anything
        for function in (model_options or {}).get("sampler_post_cfg_function", ()):
            said = dict.fromkeys(("denoised", "cond_denoised", "uncond_denoised", "input"), answer.clone())
            function({**said, "sigma": sigma, "model_options": model_options, "cond_scale": 1.0})
        answer[..., len(self.states)] = self.amount
        return answer

    def note(self, _: dict) -> None:
        """The sampler's callback: the first call after the callback before was the first of a step."""
        if self.states and (not self.begins or self.begins[-1] < len(self.states) - 1):
            self.begins.append(len(self.states) - 1)

    def run(self, function: Callable, options: dict) -> Tensor:
        """The states at each call and at the end, `K+1 N`; the first column is the weight of the starting noise."""
        x = torch.zeros_like(self.noise)
        x[..., 0] = self.amount
        if "noise_sampler" in inspect.signature(function).parameters:  # noise cancels, but takes time
            options = {**options, "noise_sampler": lambda *_: torch.zeros_like(x)}
        extra = {"model_options": {"transformer_options": {}}, "seed": 0, "denoise_mask": None}
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            end = function(self, x, self.sigmas.clone(), extra_args=extra, callback=self.note, disable=True, **options)
        return torch.stack([*self.states, end.flatten()]).double()


def measure(function: Callable, options: dict, sigmas: Sequence[float], guider) -> Response:
    """The response of one of the host's sampler functions, on the CPU.

    Args:
        function, options: as the host's KSAMPLER holds them.
        sigmas: its SIGMAS.
        guider: as in `_Probe`.

    Raises:
        Unmeasured: for a sampler that is not linear in what the model says, or does not tell its steps.
        Exception: whatever else the sampler raises.
    """

    def runs(dtype: torch.dtype) -> tuple[list[_Probe], list[Tensor]]:
        probes = [_Probe(guider, torch.tensor(sigmas, dtype=dtype), amount) for amount in (0.0, 1.0, 2.0)]
        return probes, [probe.run(function, options) for probe in probes]

    try:
        (_, probe, _), (noise, once, twice) = runs(torch.float64)
    except RuntimeError:  # it holds single precision numbers of its own
        (_, probe, _), (noise, once, twice) = runs(torch.float32)
    if not once.shape == twice.shape == noise.shape:
        raise Unmeasured("its steps depend on the picture")
    states = once - noise
    if not torch.allclose(twice - noise, 2 * states, rtol=1e-4, atol=1e-5):
        raise Unmeasured("it is not linear in what the model says")
    if not probe.begins or probe.begins[0] != 0:
        raise Unmeasured("it does not tell its steps")
    calls, n = len(probe.states), len(probe.begins)
    ends = [probe.levels[first] for first in probe.begins[1:]] + [sigmas[-1]]
    rows = states[[*probe.begins, calls]]
    acting = []
    for i, first in enumerate(probe.begins):
        size = rows[i + 1, first + 1 : [*probe.begins, calls][i + 1] + 1].abs()
        acting.append(first + int((size >= _ENOUGH * size.max()).nonzero().max()))
    weights = rows[:, [k + 1 for k in acting]]
    return Response(
        probe.begins, acting, probe.levels, list(sigmas[1:]) if n == len(sigmas) - 1 else ends,
        weights.diagonal(-1).tolist(), _past(torch.cat([rows[:, :1], weights], 1)),
    )  # fmt: skip


def _past(columns: Tensor) -> Tensor:
    """`Response.past` of what the starting noise and each step weigh in the state at which each step begins, `n+1 n+1`.

    What is left of a state in the next one is read off what has been in it for the longest time.
    """
    n = len(columns) - 1
    past = columns.new_zeros(n, n)
    for i in range(n):
        now, then = columns[i, : i + 1], columns[i + 1, : i + 1]
        oldest = int((now.abs() > 1e-12).int().argmax())
        fade = then[oldest] / now[oldest] if now[oldest] else 0.0
        past[i, :i] = (fade * now - then)[1:]
    return past


class StepChange:
    """The change of x0_hat that makes a shift, for one run of a sampler of the host.

    The sampler is measured when the first shift comes. One that cannot be, or that does something else than it did
    then, is said in the log, and taken for one of first order.

    Args:
        sampler: the host's SAMPLER.
        sigmas: its SIGMAS.
        guider: what it samples.
        level: a value of SIGMAS as a level.
    """

    def __init__(self, sampler, sigmas: Sequence[float], guider, level: Callable[[float], Level]):
        self._sampler, self._sigmas, self._guider, self._level = sampler, sigmas, guider, level
        self._response: Response | None = None
        self._measured = False
        self._calls = 0
        self._shift: Tensor | float = 0.0
        self._changes: dict[int, Tensor] = {}

    def __call__(self, shift: Tensor | float, sigma: float, t: Level, s: Level) -> Tensor | float:
        """The change for the next call of the model, at sigma in the step t to s of SIGMAS."""
        k, self._calls = self._calls, self._calls + 1
        if not self._measured and isinstance(shift, Tensor):
            self._measured = True
            self._measure()
        response = self._response
        if response is None:
            return shift * (s.vp_norm / first_order(t, s))
        if k >= len(response.sigmas) or abs(response.sigmas[k] - sigma) > 0.01 * sigma:
            self._give_up("its calls of the model are others than before")
            return shift * (s.vp_norm / first_order(t, s))
        if k in response.begins:
            self._shift = shift
        if k not in response.acting:
            return 0.0
        i = response.acting.index(k)
        change = self._changes[i] = self._solve(i, self._shift)
        later = response.past[i + 1 :]
        self._changes = {j: c for j, c in self._changes.items() if later[:, j].any()}
        return change

    def _solve(self, i: int, shift: Tensor | float) -> Tensor | float:
        response = self._response
        if abs(response.weight[i]) < _NOTHING:  # no step
            return 0.0
        target = self._level(response.ends[i]).vp_norm * shift
        past = response.past[i].tolist()
        return (target + sum(past[j] * change for j, change in self._changes.items() if past[j])) / response.weight[i]

    def _measure(self) -> None:
        function = getattr(self._sampler, "sampler_function", None)
        try:
            if function is None:
                raise Unmeasured("it is no KSAMPLER")
            response = measure(function, self._sampler.extra_options, self._sigmas, self._guider)
        except comfy.model_management.InterruptProcessingException:
            raise
        except Exception as error:  # whatever a sampler of another pack raises, the run goes on
            self._give_up(str(error) or type(error).__name__)
            return
        size = torch.tensor([self._level(end).vp_norm for end in response.ends], dtype=torch.float64)
        usual = (size / torch.tensor(response.weight, dtype=torch.float64).abs().clamp_min(_NOTHING))[None]
        response.past[(response.past.abs() * usual) < _LITTLE * size[:, None]] = 0.0
        self._response = response

    def _give_up(self, why: str) -> None:
        self._response = None
        function = getattr(self._sampler, "sampler_function", self._sampler)
        name = getattr(function, "__name__", type(function).__name__)
        logging.info("posterior: the step size in %s is that of a first-order sampler: %s", name, why)
