"""Changes inside a model, against the hidden states of transformers."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import FAMILIES, tiny_model
from peft import PeftModel
from samples import random, sharper
from torch import Tensor
from transformers import PreTrainedModel

from hyperfit_course.anatomy import anatomy, blocks_of
from hyperfit_course.decoding import continue_prompts
from hyperfit_course.geometry import participation_ratio
from hyperfit_course.late_stage import late_stage_lora
from hyperfit_course.study.controls import kl_from
from hyperfit_course.study.interventions import (
    AffineMap,
    InterventionError,
    adapters_off,
    copying_positions,
    heads_off,
    mapped_output,
    patched_output,
)
from hyperfit_course.study.spectra import rescaled_spectrum, turned_spectrum

every_family = pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
Make = Callable[..., PreTrainedModel]


def texts_for(model: Any, number: int = 2, length: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, model.config.vocab_size - 1, (number, length), generator=generator)


@torch.no_grad()
def logits(model: Any, texts: Tensor) -> Tensor:
    return model(input_ids=texts, use_cache=False).logits


@torch.no_grad()
def hidden(model: Any, texts: Tensor) -> list[Tensor]:
    """What every block is given, and the final norm: so also what a hook has made of a block's output."""
    parts, seen = anatomy(model), []
    with contextlib.ExitStack() as hooks:
        for module in (*parts.blocks, parts.final_norm):
            hook = module.register_forward_pre_hook(
                lambda m, args, named: seen.append(args[0] if args else named["hidden_states"]), with_kwargs=True
            )
            hooks.enter_context(hook)
        model(input_ids=texts, use_cache=False)
    return seen


@every_family
def test_states_of_these_tests_are_the_hidden_states_of_transformers(make: Make) -> None:
    model = make()
    texts = texts_for(model)
    with torch.no_grad():
        theirs = model(input_ids=texts, use_cache=False, output_hidden_states=True).hidden_states
    assert len(theirs) == 5
    for ours, state in list(zip(hidden(model, texts), theirs, strict=True))[:-1]:  # the last one is after the norm
        assert torch.equal(ours, state)


def adapted(make: Make = tiny_model, seed: int = 5, **settings: Any) -> PeftModel:
    """A model with adapters on all its blocks that change something."""
    model = late_stage_lora(sharper(make(**settings), 2), range(len(blocks_of(make(**settings)))), rank=2)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    return model


# Adapters


@every_family
def test_switching_off_all_adapters_gives_the_base_model_and_afterwards_they_are_on_again(make: Make) -> None:
    base, model = sharper(make(), 2), adapted(make)
    texts = texts_for(base)
    trained = logits(model, texts)
    with adapters_off(model, range(4)):
        assert torch.equal(logits(model, texts), logits(base, texts))
    assert torch.equal(logits(model, texts), trained)
    assert not torch.allclose(trained, logits(base, texts), atol=1e-2)
    assert all(weight.requires_grad for name, weight in model.named_parameters() if "lora_" in name)


@every_family
def test_blocks_before_the_first_that_is_switched_off_do_not_notice(make: Make) -> None:
    base, model = sharper(make(), 2), adapted(make)
    texts = texts_for(base)
    on = hidden(model, texts)
    with adapters_off(model, [2]):
        off = hidden(model, texts)
    assert [torch.equal(*pair) for pair in zip(on, off, strict=True)] == [True, True, True, False, False]
    with adapters_off(model, [0, 1]):
        of_base = hidden(base, texts)
        assert [torch.equal(*pair) for pair in zip(hidden(model, texts), of_base, strict=True)][:3] == [True] * 3


def test_adapters_are_on_again_after_an_error() -> None:
    model = adapted()
    trained = logits(model, texts_for(model))
    with pytest.raises(RuntimeError, match="stop"), adapters_off(model, [0]):
        raise RuntimeError("stop")
    assert torch.equal(logits(model, texts_for(model)), trained)


@pytest.mark.parametrize(
    ("model", "blocks", "message"),
    [
        (adapted(), [2], "The model has the blocks 0 to 1, and no block 2"),
        (adapted(), [-1], "no block -1"),
        (tiny_model(), [0], "Block 0 has no adapter to switch off: name blocks that were trained"),
        (late_stage_lora(tiny_model(), [1], rank=2), [0, 1], "Block 0 has no adapter"),
    ],
)
def test_adapters_that_are_not_there_cannot_be_switched_off(model: Any, blocks: list[int], message: str) -> None:
    before = logits(model, texts_for(model))
    with pytest.raises(InterventionError, match=message), adapters_off(model, blocks):
        pass
    assert torch.equal(logits(model, texts_for(model)), before)


# Maps


def identity(width: int = 32) -> AffineMap:
    return AffineMap(random(width), torch.eye(width))


@every_family
@pytest.mark.parametrize("with_adapters", [False, True], ids=["plain", "adapted"])
def test_output_of_a_block_is_mapped_at_every_position(make: Make, with_adapters: bool) -> None:
    model = adapted(make) if with_adapters else make()
    texts, change = texts_for(model), AffineMap(random(32), random(32, 32, seed=1))
    before = hidden(model, texts)
    with mapped_output(model, 1, change):
        after = hidden(model, texts)
    torch.testing.assert_close(after[2], change.mean + (before[2] - change.mean) @ change.matrix)
    assert torch.equal(after[1], before[1])
    assert not torch.allclose(after[3], before[3], atol=1e-2)
    assert all(torch.equal(*pair) for pair in zip(hidden(model, texts), before, strict=True))


@every_family
def test_identity_changes_nothing_and_an_inverse_undoes_a_map(make: Make) -> None:
    model = make()
    texts, matrix = texts_for(model), torch.eye(32) + 0.1 * random(32, 32, seed=1)
    mean, before = random(32), logits(model, texts)
    with mapped_output(model, 3, identity()):
        torch.testing.assert_close(logits(model, texts), before, rtol=1e-3, atol=1e-4)
    there, back = AffineMap(mean, matrix), AffineMap(mean, torch.linalg.inv(matrix))
    with mapped_output(model, 3, there), mapped_output(model, 3, back):
        torch.testing.assert_close(logits(model, texts), before, rtol=1e-3, atol=1e-4)


def test_map_is_at_work_while_a_model_writes() -> None:
    model, zero = sharper(tiny_model(), 4), AffineMap(random(32), torch.zeros(32, 32))
    with mapped_output(model, 1, zero):
        written = continue_prompts(model, texts_for(model), 8)
    assert len(written.unique()) == 1, "all states are the mean, so all tokens are one"
    assert len(continue_prompts(model, texts_for(model), 8).unique()) > 1


@pytest.mark.parametrize(
    ("block", "change", "message"),
    [
        (2, identity(), "The model has the blocks 0 to 1, and no block 2"),
        (0, identity(16), r"shapes \(16,\) and \(16, 16\) does not fit a model of width 32"),
        (0, AffineMap(torch.zeros(32), torch.eye(16)), "does not fit a model of width 32"),
    ],
)
def test_map_that_does_not_fit_is_refused(block: int, change: AffineMap, message: str) -> None:
    with pytest.raises(InterventionError, match=message), mapped_output(tiny_model(), block, change):
        pass


# Spectra


def cloud(seed: int, power: float, width: int = 6, number: int = 400) -> Tensor:
    """A cloud around a mean, with axes in random directions of quite different lengths."""
    axes = torch.linalg.qr(random(width, width, seed=seed)).Q * torch.arange(1.0, width + 1) ** power
    return random(number, width, seed=seed + 1) @ axes.T + 5 * random(width, seed=seed + 2)


def covariance(states: Tensor) -> Tensor:
    return torch.cov(states.T, correction=0)


def mapped(states: Tensor, change: AffineMap) -> Tensor:
    return change.mean + (states - change.mean) @ change.matrix


def test_rescaled_cloud_has_the_other_spectrum_and_keeps_mean_directions_and_total_variance() -> None:
    states, like = cloud(0, 2), cloud(10, 0.3)
    after = mapped(states, rescaled_spectrum(states, like))
    before, wanted, found = covariance(states), covariance(like), covariance(after)
    assert participation_ratio(before) < 3 < 5 < participation_ratio(wanted)
    torch.testing.assert_close(participation_ratio(found), participation_ratio(wanted), rtol=1e-3, atol=0)
    torch.testing.assert_close(found.trace(), before.trace(), rtol=1e-4, atol=0)
    torch.testing.assert_close(after.mean(dim=0), states.mean(dim=0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found @ before, before @ found, rtol=1e-3, atol=1e-1)  # one set of eigenvectors


def test_rescaling_to_its_own_spectrum_changes_nothing_and_back_again_undoes_it() -> None:
    states, like = cloud(0, 2), cloud(10, 0.3)
    torch.testing.assert_close(rescaled_spectrum(states, states).matrix, torch.eye(6), rtol=1e-4, atol=1e-4)
    there = mapped(states, rescaled_spectrum(states, like))
    torch.testing.assert_close(mapped(there, rescaled_spectrum(there, states)), states, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("states", "like", "message"),
    [
        (random(6, 6), random(20, 6), r"shape \(n, d\) with n above d, not \(6, 6\): give more texts"),
        (random(20, 6), random(5, 6), r"not \(5, 6\)"),
        (random(2, 20, 6), random(20, 6), r"not \(2, 20, 6\)"),
        (random(20, 6), random(20, 5), "States of width 6 cannot take the spectrum of states of width 5"),
    ],
)
def test_clouds_without_a_spectrum_or_of_two_widths_are_refused(states: Tensor, like: Tensor, message: str) -> None:
    with pytest.raises(InterventionError, match=message):
        rescaled_spectrum(states, like)


@pytest.fixture
def fitted() -> tuple[PreTrainedModel, Tensor, Tensor, AffineMap]:
    """A model, texts, its states after its last block, and a map that gives them a flat spectrum."""
    model = sharper(tiny_model(), 3)
    texts, states = texts_for(model, 4, 20), []
    with blocks_of(model)[-1].register_forward_hook(lambda m, i, output: states.append(output.flatten(0, 1))):
        logits(model, texts)
    return model, texts, states[0], rescaled_spectrum(states[0], random(500, 32))


def test_turned_map_is_as_far_from_the_model_in_other_directions(fitted: Any) -> None:
    model, texts, states, change = fitted
    reference = copy.deepcopy(model)
    turned = turned_spectrum(states, change, reference, model, 1, texts, seed=0)
    divergences = []
    for each in (change, turned):
        with mapped_output(model, 1, each):
            divergences.append(kl_from(reference, model, texts))
    assert divergences[1] == pytest.approx(divergences[0], rel=0.021)
    torch.testing.assert_close(turned.mean, change.mean)
    parts = [each.matrix - torch.eye(32) * each.matrix.trace() / 32 for each in (change, turned)]
    assert torch.cosine_similarity(parts[0].flatten(), parts[1].flatten(), dim=0).abs() < 0.5
    other = turned_spectrum(states, change, reference, model, 1, texts, seed=1)
    assert not torch.allclose(other.matrix, turned.matrix, atol=1e-2)


def test_map_that_changes_nothing_has_no_random_one_like_it(fitted: Any) -> None:
    model, texts, states, change = fitted
    same = AffineMap(change.mean, torch.eye(32))
    with pytest.raises(InterventionError, match="No random map diverges as much"):
        turned_spectrum(states, same, copy.deepcopy(model), model, 1, texts, seed=0)


# Copies and patches


@pytest.mark.parametrize(
    ("text", "copies"),
    [
        ([1, 2, 3, 4, 5, 6], []),
        ([1, 2, 3, 9, 1, 2, 3, 8], [6]),
        ([1, 2, 3, 4, 1, 2, 3, 4], [6, 7]),
        ([5, 5, 5, 5, 5], [3, 4]),
        ([1, 2, 1, 2, 1, 2], [4, 5]),
        ([1, 2], []),
    ],
    ids=["none", "one", "two", "one token", "two tokens", "short"],
)
def test_positions_that_copy_end_three_tokens_that_stood_before(text: list[int], copies: list[int]) -> None:
    found = copying_positions(torch.tensor([text, list(range(20, 20 + len(text)))]))
    assert found[0].nonzero().flatten().tolist() == copies
    assert not found[1].any()


def test_span_decides_which_positions_copy() -> None:
    text = torch.tensor([[1, 2, 3, 9, 1, 2, 3]])
    assert [copying_positions(text, span)[0].sum().item() for span in (1, 2, 3, 4)] == [3, 2, 1, 0]


@every_family
@pytest.mark.parametrize("with_adapters", [False, True], ids=["plain", "adapted"])
def test_states_are_the_donors_where_the_text_copies_and_nowhere_else(make: Make, with_adapters: bool) -> None:
    model, donor = make(), adapted(make) if with_adapters else make(seed=1)
    if with_adapters:
        model, donor = donor, model
    half = texts_for(model, 2, 6)
    texts = torch.cat([half, half], dim=1)
    own, theirs = hidden(model, texts), hidden(donor, texts)
    with patched_output(model, donor, 1):
        patched = hidden(model, texts)
    copies = copying_positions(texts)
    assert copies[:, 8:].all()
    assert not copies[:, :8].any()
    torch.testing.assert_close(patched[2][copies], theirs[2][copies])
    assert torch.equal(patched[2][~copies], own[2][~copies])
    assert torch.equal(patched[3][~copies], own[3][~copies]), "earlier positions never read later ones"
    assert not torch.allclose(patched[3][copies], own[3][copies], atol=1e-2)
    assert all(torch.equal(*pair) for pair in zip(hidden(model, texts), own, strict=True))


@every_family
def test_patching_while_a_model_writes_is_patching_the_whole_text_step_by_step(make: Make) -> None:
    model, donor = sharper(make(), 4), sharper(make(seed=1), 4)
    prompts = texts_for(model, 3, 4).repeat(1, 3)
    model.generation_config.eos_token_id = None  # no token is forbidden
    with patched_output(model, donor, 1):
        written = continue_prompts(model, prompts, 12)
        texts = prompts
        for _ in range(12):
            texts = torch.cat([texts, logits(model, texts)[:, -1:].argmax(dim=-1)], dim=1)
    assert torch.equal(written, texts[:, 12:])
    assert not torch.equal(written, continue_prompts(model, prompts, 12))


def test_patching_a_copy_of_the_model_changes_nothing() -> None:
    model = sharper(tiny_model(), 4)
    prompts = texts_for(model, 2, 4).repeat(1, 3)
    with patched_output(model, copy.deepcopy(model), 0):
        assert torch.equal(continue_prompts(model, prompts, 12), continue_prompts(copy.deepcopy(model), prompts, 12))


def test_after_the_last_block_the_donor_decides_what_is_copied() -> None:
    model, donor = sharper(tiny_model(), 4), sharper(tiny_model(seed=1), 4)
    donor.set_input_embeddings(model.get_input_embeddings())
    donor.tie_weights()
    donor.model.norm = model.model.norm
    texts = texts_for(model, 2, 6).repeat(1, 2)
    with patched_output(model, donor, 1):
        torch.testing.assert_close(logits(model, texts)[:, 8:], logits(donor, texts)[:, 8:])
    assert anatomy(model).final_norm is anatomy(donor).final_norm


def wider() -> PreTrainedModel:
    config = tiny_model().config
    config.hidden_size = 64
    return type(tiny_model())(config)


MODEL = tiny_model()


@pytest.mark.parametrize(
    ("donor", "block", "message"),
    [
        (tiny_model(), 2, "The model has the blocks 0 to 1, and no block 2"),
        (MODEL, 0, "takes states of another one like it, not of itself: load it once more"),
        (wider(), 0, "A model of 2 blocks and width 32 .* not of 2 blocks and width 64"),
        (FAMILIES["llama"](blocks=3), 0, "not of 3 blocks and width 32"),
    ],
)
def test_donor_that_does_not_fit_is_refused(donor: Any, block: int, message: str) -> None:
    with pytest.raises(InterventionError, match=message), patched_output(MODEL, donor, block):
        pass


# Heads


def projection(block: Any) -> Any:
    names = ("self_attn.o_proj", "self_attn.out_proj", "attn.c_proj", "attention.dense")
    return next(module for name, module in block.named_modules() if name in names)


@every_family
@pytest.mark.parametrize("with_adapters", [False, True], ids=["plain", "adapted"])
def test_head_that_is_off_is_one_whose_weights_into_the_stream_are_zero(make: Make, with_adapters: bool) -> None:
    model = adapted(make) if with_adapters else make()
    texts = texts_for(model)
    before = logits(model, texts)
    with heads_off(model, [(1, 2), (2, 0)]):
        off = logits(model, texts)
    assert torch.equal(logits(model, texts), before)
    assert not torch.allclose(off, before, atol=1e-4)
    changed = copy.deepcopy(model)
    if isinstance(changed, PeftModel):
        changed = changed.merge_and_unload()
    with torch.no_grad():
        for block, head in ((1, 2), (2, 0)):
            weight = projection(blocks_of(changed)[block]).weight
            columns = slice(8 * head, 8 * head + 8)
            if hasattr(projection(blocks_of(changed)[block]), "nf"):  # GPT-2 keeps it transposed
                weight[columns] = 0
            else:
                weight[:, columns] = 0
    torch.testing.assert_close(off, logits(changed, texts), rtol=1e-3, atol=1e-4)


def test_no_head_off_changes_nothing() -> None:
    model = tiny_model()
    before = logits(model, texts_for(model))
    with heads_off(model, []):
        assert torch.equal(logits(model, texts_for(model)), before)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ((2, 0), "The model has the blocks 0 to 1, and no block 2"),
        ((0, 4), "The model has the heads 0 to 3 in a block, and no head 4"),
    ],
)
def test_head_that_is_not_there_is_refused(head: tuple[int, int], message: str) -> None:
    model = tiny_model()
    before = logits(model, texts_for(model))
    with pytest.raises(InterventionError, match=message), heads_off(model, [(0, 0), head]):
        pass
    assert torch.equal(logits(model, texts_for(model)), before)


def test_block_without_attention_is_refused() -> None:
    model = tiny_model()
    for block in blocks_of(model):
        del block.self_attn
    with (
        pytest.raises(InterventionError, match="No attention was found in LlamaDecoderLayer"),
        heads_off(model, [(0, 0)]),
    ):
        pass
