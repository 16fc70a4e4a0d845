"""What a step of the lab on exact speed-ups costs: the formula counts what a counter counts."""

from __future__ import annotations

import pytest
import torch
from test_exact_speedups import EXACT, small, texts
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaForCausalLM

from hyperfit_course.anatomy import linears_of
from hyperfit_course.labs.exact_speedups import Loop, Way
from hyperfit_course.labs.step_costs import kept_bytes, step_flops


def plain(blocks: int) -> LlamaForCausalLM:
    """The model below the adapters of ``small``."""
    return small(blocks).unload()  # type: ignore[no-any-return, operator]


def ran(loop: Loop) -> int:
    """Operations in the matrix products of one step, as PyTorch's own counter counts them."""
    loop.loss(torch.arange(3))  # what is done once is done before
    with FlopCounterMode(display=False) as counter:
        loop.gradients(torch.arange(3))
    found = counter.get_flop_counts()["Global"]
    return sum(found.get(kind, 0) for kind in (torch.ops.aten.mm, torch.ops.aten.addmm))


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("way", EXACT, ids=lambda way: way.name)
def test_the_formula_is_what_a_counter_counts(way: Way, blocks: int) -> None:
    levers = {"chunked": way.chunked, "cached": way.cached, "own": way.own}
    counted = step_flops(plain(blocks), 3, 9, rank=3, blocks=blocks, **levers)
    assert counted == ran(Loop(small(blocks), texts(), way))


def test_with_adapters_on_all_blocks_the_formula_is_what_a_counter_counts() -> None:
    assert step_flops(plain(4), 3, 9, rank=3, blocks=4) == ran(Loop(small(4), texts(), EXACT[0]))


def test_more_is_never_cheaper() -> None:
    model = plain(1)
    costs = [step_flops(model, 1, 8, 2, blocks) for blocks in (1, 2, 3, 4)]
    assert costs == sorted(costs)
    assert step_flops(model, 1, 8, 2, 4, cached=True) == costs[-1], "nothing is frozen, so nothing is saved"
    assert step_flops(model, 2, 8, 2, 1) == 2 * costs[0]


@pytest.mark.parametrize(("blocks", "rank"), [(0, 2), (5, 2), (2, 0)])
def test_blocks_or_ranks_that_are_not_there_are_refused(blocks: int, rank: int) -> None:
    with pytest.raises(ValueError, match="Give 1 to 4 blocks and a positive rank"):
        step_flops(plain(1), 1, 8, rank, blocks)


def test_kept_bytes_are_those_of_a_map_by_hand() -> None:
    layer, x = torch.nn.Linear(4, 3, bias=False), torch.ones(5, 4)
    # The square keeps the three outputs of five rows, the weight's gradient wants the input.
    assert kept_bytes(lambda: layer(x).square().sum(), layer) == 4 * (5 * 3 + 5 * 4)
    layer.requires_grad_(False)
    assert kept_bytes(lambda: layer(x.requires_grad_()).square().sum(), layer) == 4 * 5 * 3


def test_each_lever_keeps_fewer_bytes_or_as_many() -> None:
    kept = {}
    for way in EXACT:
        loop = Loop(small(), texts(), way)
        kept[way.name] = kept_bytes(lambda loop=loop: loop.loss(torch.arange(3)), loop.model)  # type: ignore[misc]
    assert kept["+ chunked loss"] < kept["loop"]
    assert kept["+ stored prefix"] <= kept["+ chunked loss"]
    # Two states of 40 numbers of 27 positions, in each of the two blocks.
    assert kept["+ stored prefix"] - kept["+ own backward"] >= 2 * 2 * 27 * 40 * 8
    assert len(linears_of(plain(1).model.layers[0])) == 7
