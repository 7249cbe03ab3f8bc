"""Cancel, and progress, in what takes long (cases D3, E8): in this process by counting, on the server by its events."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from guided_host import apply_guidance, gaussian_model, guide, measured
from test_host_server import Graph, complete

from posterior.algebra.checkpoint import watched
from posterior.benchmarks.fuzz import busy
from posterior.guidance.diffpir import DiffPIR
from posterior.measurement.measurement import Measurement
from posterior.measurement.noise import GaussianNoise
from posterior.operators import kernels
from posterior.operators.convolution import convolution
from posterior.operators.pointwise import Palette
from posterior.operators.varying_blur import VaryingBlur


@pytest.fixture
def cancelled(host):
    """A function that wraps another: at the third call the user cancels; gives the list of its calls."""
    import comfy.model_management as management

    def wrap(function, calls: list):
        def counted(*args, **kwargs):
            calls.append(1)
            if len(calls) == 3:
                management.interrupt_current_processing()
            return function(*args, **kwargs)

        return counted

    yield wrap
    management.interrupt_current_processing(False)


def blurred(size: int = 8) -> Measurement:
    """Pictures seen through a motion blur, whose inverses take conjugate gradients."""
    operator = convolution(kernels.motion(3, 30), "reflect")
    picture = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(3))
    return Measurement.simulate(operator, picture, GaussianNoise(0.05), 0)


@pytest.mark.parametrize("start", ["smooth", "back-projection"])
def test_a_start_stops_at_the_iteration_of_the_cancel(host, cancelled, start):
    import comfy.model_management as management

    measurement, calls = blurred(16), []
    measurement.operator.forward = cancelled(measurement.operator.forward, calls)
    with pytest.raises(management.InterruptProcessingException):
        host.call("PosteriorStartingPoint", measurement=measurement, start=start, batch_size=1)
    assert len(calls) == 3


def test_keep_measured_pixels_stops(host, cancelled, monkeypatch):
    import comfy.model_management as management

    from posterior.algebra.multigrid import Multigrid

    calls = []
    monkeypatch.setattr(Multigrid, "stiffness", cancelled(Multigrid.stiffness, calls))
    with pytest.raises(management.InterruptProcessingException):
        image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
        host.call("PosteriorKeepMeasuredPixels", image=image, measurement=measured(size=64))
    assert len(calls) == 3


def test_a_step_in_the_host_s_own_sampler_stops(host, cancelled):
    """The conjugate gradients of one guided step; nodes of the host watch nothing themselves."""
    import comfy.model_management as management

    measurement, calls = blurred(), []
    guided = apply_guidance(gaussian_model(host), guide(DiffPIR(measurement)))
    adjoint = type(measurement.operator).adjoint
    measurement.operator.adjoint = cancelled(lambda y: adjoint(measurement.operator, y), calls)
    latent = {"samples": torch.zeros(1, 3, 8, 8)}
    with pytest.raises(management.InterruptProcessingException):
        host.sample(guided, "euler", torch.tensor([5.0, 1.0, 0.0]), latent)
    assert len(calls) == 3


@pytest.mark.parametrize("operator", [Palette(torch.rand(16, 3)), VaryingBlur(torch.rand(9, 1, 3, 3), 3)])
def test_an_operator_in_parts_stops(operator, monkeypatch):
    """And tells no share of its own, so that the bar of the loop that it is a part of does not jump."""
    monkeypatch.setattr(Palette, "MOST", 64)
    told = []
    with watched(told.append):
        operator.forward(torch.rand(1, 3, 8, 8))
    assert len(told) > 8 and set(told) == {None}
    with pytest.raises(ZeroDivisionError), watched(lambda done: 1 / 0):
        operator.forward(torch.rand(1, 3, 8, 8))


def test_progress_and_cancel_over_http(server):
    """Starting Point of a large picture: the bar moves, and the prompt ends inside the node soon after the cancel."""
    graph = Graph()
    photo = graph.add("PosteriorExamplePhoto", photo="chelsea", damage="scratches", size=512)
    large = graph.add("ImageScale", image=photo, upscale_method="bilinear", width=1536, height=1536, crop="disabled")
    operator = graph.add("PosteriorMotionBlur", length=15.0, angle=30.0, boundary="reflect")
    measurement = graph.add("PosteriorSimulate", image=large, operator=operator, sigma_y=0.02, seed=graph.fresh())
    start = graph.add("PosteriorStartingPoint", measurement=measurement, start="smooth", batch_size=1)
    graph.add("SaveLatent", samples=start, filename_prefix="latents/start")
    watching = _cancel_at_first_progress(server, complete(server, graph), start[0])
    with ThreadPoolExecutor(1) as pool:  # a browser test keeps an event loop in this thread
        values, details, seconds = pool.submit(asyncio.run, watching).result()
    assert details["node_id"] == start[0]
    assert 0 < values[-1] < 1000 and len(values) < 30
    assert seconds < 20  # of the processor: a conjugate gradient iteration takes a third, all of them minutes


async def _cancel_at_first_progress(server, graph: Graph, node: str):
    """The values of the node's bar, what the server said in the end, and its seconds of computing after the cancel."""
    import aiohttp

    values, cancelled = [], 0.0
    url = f"{server.url}/ws?clientId=cancel"
    async with aiohttp.ClientSession() as session, session.ws_connect(url, timeout=aiohttp.ClientWSTimeout(300)) as ws:
        async with session.post(f"{server.url}/prompt", json={"prompt": graph, "client_id": "cancel"}) as answer:
            assert answer.status == 200, await answer.text()
        async for message in ws:
            event = message.json() if message.type == aiohttp.WSMsgType.TEXT else {"type": "picture"}
            if event["type"] == "progress" and event["data"]["node"] == node:
                values.append(event["data"]["value"])
                if values[-1] > 0 and not cancelled:
                    cancelled = busy(server)
                    await session.post(f"{server.url}/interrupt", json={})
            if event["type"] == "execution_interrupted":
                return values, event["data"], busy(server) - cancelled
            assert event["type"] not in ("execution_error", "execution_success"), event
