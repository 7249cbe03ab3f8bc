"""Prompts with every kind of bad value and wiring: each is answered in a sentence, and the server is as before."""

from __future__ import annotations

import math

import pytest

from posterior.algebra.refusal import Refusal
from posterior.benchmarks import fuzz as bench

CASES = 500


def test_bad_prompts_are_answered_in_a_sentence():
    """The same prompts in every run, on a server without files of other tests; thousands by `dev.py bench fuzz`."""
    with bench.test_server() as server:
        found = bench.fuzz(server, CASES, seed=0)
    assert not found["faults"], "\n".join(found["faults"][:5])
    assert found["same"] and found["kinds"]["works"] > CASES / 20 and found["kinds"].get("host", 0) < CASES / 50
    before, after = found["before"], found["after"]
    assert after["tensors"] <= before["tensors"] + 20, found
    assert after["objects"] < 1.02 * before["objects"], found
    assert after["bytes"] < 1.1 * before["bytes"], found


@pytest.mark.parametrize("inputs, words", [
    ({"sigma": math.nan}, r"The input sigma is nan; give a number from 0\.1 to"),
    ({"sigma": -1.0}, r"The input sigma is -1; give a number"),
    ({"sigma": "2"}, r'The input sigma is "2"; give a number'),
    ({"sigma": None}, r"The input sigma is None; give a number"),
    ({"boundary": "none"}, r'The input boundary is "none"; choose one of its list'),
])  # fmt: skip
def test_a_value_that_the_host_lets_through_is_refused(host, inputs, words):
    with pytest.raises(Refusal, match=words):
        host.call("PosteriorGaussianBlur", **{"sigma": 1.0, "boundary": "reflect", **inputs})


def test_a_socket_takes_what_it_is_for(host):
    operator = host.call("PosteriorIdentity")
    with pytest.raises(Refusal, match=r"The input image is of the type dict; connect .* that gives IMAGE\."):
        host.call("PosteriorSimulate", image={}, operator=operator)
    with pytest.raises(Refusal, match=r"The input second is of the type tuple; .* gives MEASUREMENT_OPERATOR\."):
        host.call("PosteriorCompose", first=operator, second=(operator,))
