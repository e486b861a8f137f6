"""What a listener hears: the MACs of each layer before it runs, on its own thread, and nothing afterwards."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_modules

from scalewise.budget.meter import layer_macs, listening, tick

NETWORK = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1, bias=False))
CONVOLUTIONS = 3 * 4 * 9 * 30 + 4 * 2 * 30  # on 5 x 6 pixels


def hooks() -> int:
    return len(torch_modules._global_forward_pre_hooks)


def test_each_layer_is_heard_once_before_it_runs() -> None:
    heard: list[int] = []
    with listening(heard.append):
        NETWORK(torch.zeros(1, 3, 5, 6))
        tick()
    assert [macs for macs in heard if macs] == [3 * 4 * 9 * 30, 4 * 2 * 30]
    assert len(heard) == 5  # the sequence, its three modules, the tick


def test_layers_of_other_kinds_are_counted() -> None:
    x = torch.zeros(2, 8, 6, 6)
    assert layer_macs(nn.Conv2d(8, 8, 3, groups=4), (x,)) == 8 * 2 * 9 * 72
    assert layer_macs(nn.Conv2d(8, 4, 2, stride=2), (x,)) == 8 * 4 * 4 * 18
    assert layer_macs(nn.ConvTranspose2d(8, 4, 2, stride=2), (x,)) == 8 * 4 * 4 * 72
    assert layer_macs(nn.Linear(6, 10), (x,)) == 60 * 96
    assert layer_macs(nn.ReLU(), (x,)) == layer_macs(nn.Linear(6, 10), ()) == 0


def test_nothing_is_left_and_nobody_hears_afterwards() -> None:
    before, heard = hooks(), []
    with pytest.raises(ZeroDivisionError), listening(heard.append):
        assert hooks() == before + 1
        raise ZeroDivisionError
    NETWORK(torch.zeros(1, 3, 5, 6))
    tick()
    assert hooks() == before and not heard
    assert all(not layer._forward_pre_hooks for layer in NETWORK.modules())


def test_threads_that_share_a_model_hear_their_own_layers() -> None:
    heard: dict[int, int] = {}
    together = threading.Barrier(3)

    def run(height: int) -> None:
        def listen(macs: int) -> None:
            heard[height] = heard.get(height, 0) + macs

        with listening(listen):
            together.wait()
            NETWORK(torch.zeros(1, 3, height, 6))
            together.wait()

    threads = [threading.Thread(target=run, args=(height,)) for height in (5, 10)]
    for thread in threads:
        thread.start()
    together.wait()
    NETWORK(torch.zeros(1, 3, 50, 60))  # of a thread where nobody listens
    together.wait()
    for thread in threads:
        thread.join()
    assert heard == {5: CONVOLUTIONS, 10: 2 * CONVOLUTIONS} and not hooks()


def test_the_inner_listener_hears_in_place_of_the_outer() -> None:
    outer: list[int] = []
    inner: list[int] = []
    with listening(outer.append):
        with listening(inner.append):
            tick()
        with listening(None):
            tick()
        tick()
    assert inner == [0] and outer == [0]
