"""Guidance on the real server: every node in a prompt of its own, with the inputs that the editor fills in."""

from __future__ import annotations

import pytest
from test_host_server import Graph, complete

from posterior.tools.server import PromptError

FREE = ["DDNM", "DiffPIR", "DDS", "SNIPS", "ScoreALD", "MPGD", "GeneralGuidance"]
COSTLY = ["DPS", "LGDMC", "PiGDM", "MomentMatching", "STSL"]
OWNERS = ["DDRM", "DSG", "MCG", "NoisedProjection"]


def sample(graph: Graph, problem: tuple, guidance: list) -> None:
    """Adds a guided run of two steps."""
    model, measurement, latent, conditioning = problem
    sampler = graph.add("PosteriorGuidedDDIM", guidance=guidance)
    sigmas = graph.add("KarrasScheduler", steps=2, sigma_max=10.0, sigma_min=0.1, rho=7.0)
    graph.fit(graph.advanced(model, sampler, sigmas, latent, conditioning), measurement)


def test_every_method_runs_and_they_chain(server):
    graph = Graph()
    problem = graph.problem(64, "PosteriorPhotoPrior", sigma_y=0.05)
    for family in (FREE, COSTLY, OWNERS):
        guidance = None
        for name in family:
            more = {"guidance": guidance} if guidance else {}
            guidance = graph.add(f"Posterior{name}", measurement=problem[1], **more)
        timed = graph.add("PosteriorGuidanceTiming", guidance=guidance, strength=0.3, every=2, schedule="falling")
        sample(graph, problem, timed)
    auto = graph.add("PosteriorAutoGuidance", measurement=problem[1], steps=2)
    sample(graph, problem, auto)
    outputs = server.run(complete(server, graph))
    reports = [output["text"][0] for output in outputs.values() if "text" in output]
    assert len(server.images(outputs)) == 4
    assert any(report.startswith("DiffPIR, because") for report in reports)
    assert not any("nan" in report for report in reports)


def test_a_refusal_names_what_to_do(server):
    graph = Graph()
    photo = graph.add("PosteriorExamplePhoto", photo="chelsea", damage="scratches", size=64)
    measurement = graph.add("PosteriorObserve", image=photo, operator=graph.add("PosteriorJPEG"))
    graph.add("PreviewAny", source=graph.add("PosteriorDDRM", measurement=measurement))
    with pytest.raises(PromptError, match="DDRM needs singular values.*choose"):
        server.run(complete(server, graph))
