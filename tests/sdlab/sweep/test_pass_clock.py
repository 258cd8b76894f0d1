"""The pass clock counts images per call, and the seconds of the network alone."""

import time

import torch

from sdlab.sweep.pass_clock import PassClock


def test_it_counts_one_pass_per_image_and_call_and_changes_nothing():
    clock, x = PassClock(), torch.ones(3, 1)
    model = clock.watch(lambda x, sigma, context: 2 * x + context)
    assert torch.equal(model(x, 1.0, x), 3 * x)
    model(torch.cat([x, x]), 1.0, torch.cat([x, x]))
    assert clock.passes == 9


def test_it_times_the_network_alone():
    clock = PassClock()

    def slow(x: torch.Tensor, sigma: object, context: torch.Tensor) -> torch.Tensor:
        time.sleep(0.02)
        return x

    model = clock.watch(slow)
    for _ in range(2):
        model(torch.ones(1), 1.0, torch.ones(1))
        time.sleep(0.2)
    assert 0.04 <= clock.seconds < 0.2


def test_a_perturbation_reaches_the_network():
    seen = []
    model = PassClock().watch(lambda x, sigma, context, perturbation=(): seen.append(perturbation) or x)
    model(torch.ones(1), 1.0, torch.ones(1), perturbation=("blur",))
    assert seen == [("blur",)]
