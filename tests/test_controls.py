from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_model
from peft import PeftModel
from samples import random, sharper
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from hyperfit_course.decoding import continue_prompts
from hyperfit_course.late_stage import late_stage_lora
from hyperfit_course.logits import stream_logits
from hyperfit_course.reweighting import StaticBias, static_bias
from hyperfit_course.study import controls
from hyperfit_course.study.controls import ShapedLike, damage, kl_from, kl_of_logits, learned_bias, probable_bias

NEW = 12
END = 256
"""The tiny model's end token, which decoding forbids."""


@pytest.fixture
def prompts() -> Tensor:
    return torch.randint(0, 256, (5, 10), generator=torch.Generator().manual_seed(0))


def decoded() -> PreTrainedModel:
    return sharper(tiny_model(0), 8)


def other() -> PreTrainedModel:
    return sharper(tiny_model(1), 6)


def last_logits(model: PreTrainedModel, input_ids: Tensor) -> Tensor:
    """Of a model that reads the whole text anew."""
    with torch.no_grad():
        return model(input_ids=input_ids, use_cache=False).logits[:, -1]


# The order of one model in the shape of another


class Watch(LogitsProcessor):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        self.contexts: list[Tensor] = []
        self.scores: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.contexts.append(input_ids.clone())
        self.scores.append(scores.clone())
        return scores


def test_every_step_has_the_order_of_the_decoded_model_and_the_probabilities_of_the_reference(prompts: Tensor) -> None:
    model, reference, before, after = decoded(), other(), Watch(), Watch()
    processors = LogitsProcessorList([before, ShapedLike(reference), after])
    continue_prompts(model, prompts, NEW, sample=True, logits_processor=processors)
    assert len(after.scores) == NEW
    for context, own, shaped in zip(after.contexts, before.scores, after.scores, strict=True):
        # Of tokens with equal scores either may come first, and which one differs from processor to processor.
        falling = torch.from_numpy(np.lexsort((-shaped, -own)))
        assert (shaped.gather(-1, falling).diff(dim=-1) <= 0).all()
        wanted = last_logits(reference, context)
        wanted[:, END] = -math.inf
        expected = wanted.softmax(-1).sort(descending=True).values
        torch.testing.assert_close(shaped.softmax(-1).sort(descending=True).values, expected, rtol=1e-3, atol=1e-6)
        assert not torch.allclose(own.softmax(-1).sort(descending=True).values, expected, rtol=1e-3, atol=1e-6)


def test_forbidden_tokens_stay_forbidden_and_only_they_are() -> None:
    reference, text = other(), torch.tensor([[65, 66, 67], [1, 2, 3]])
    scores = random(2, 257)
    scores[0, [3, 100, END]] = -math.inf
    scores[1, 7] = -math.inf
    shaped = ShapedLike(reference)(text, scores)
    assert torch.equal(shaped.isneginf(), scores.isneginf())
    wanted = last_logits(reference, text).masked_fill(scores.isneginf(), -math.inf)
    torch.testing.assert_close(shaped.sort(-1).values, wanted.sort(-1).values)


def test_of_tied_tokens_the_first_gets_the_largest_probability() -> None:
    reference, text = other(), torch.tensor([[65, 66]])
    shaped = ShapedLike(reference)(text, torch.zeros(1, 257))
    assert torch.equal(shaped, last_logits(reference, text).sort(-1, descending=True).values)


@pytest.mark.parametrize("sample", [False, True], ids=["greedy", "sampled"])
def test_shape_of_the_same_model_changes_nothing(prompts: Tensor, sample: bool) -> None:
    model, processors = decoded(), LogitsProcessorList([ShapedLike(decoded())])
    shaped = continue_prompts(model, prompts, NEW, sample=sample, logits_processor=processors)
    assert torch.equal(shaped, continue_prompts(model, prompts, NEW, sample=sample))


def test_shape_of_another_model_changes_sampled_text_and_no_greedy_one(prompts: Tensor) -> None:
    model = decoded()
    found = {
        sample: continue_prompts(
            model, prompts, NEW, sample=sample, logits_processor=LogitsProcessorList([ShapedLike(other())])
        )
        for sample in (False, True)
    }
    assert torch.equal(found[False], continue_prompts(model, prompts, NEW))
    assert not torch.equal(found[True], continue_prompts(model, prompts, NEW, sample=True))


# The bias of the tokens that became more probable


def test_bias_is_that_of_all_tokens_where_the_mean_probability_gained_most(prompts: Tensor) -> None:
    base, tuned = decoded(), other()
    gain = torch.zeros(257)
    for prompt in prompts:  # a naive reading, one position at a time
        for end in range(1, prompts.shape[1]):
            before, after = (last_logits(model, prompt[None, :end])[0] for model in (base, tuned))
            gain += after.softmax(-1) - before.softmax(-1)
    expected = torch.zeros(257)
    chosen = sorted(range(257), key=lambda token: -gain[token].item())[:20]
    expected[chosen] = static_bias(base, tuned, None, prompts)[chosen]
    found = probable_bias(base, tuned, prompts, 20)
    assert (found.shape, found.dtype) == ((257,), torch.float32)
    assert found.count_nonzero() == 20
    torch.testing.assert_close(found, expected)


def test_bias_holds_other_tokens_than_those_that_gained_ranks(prompts: Tensor) -> None:
    by_probability = probable_bias(decoded(), other(), prompts, 20).nonzero().flatten().tolist()
    by_rank = static_bias(decoded(), other(), 20, prompts).nonzero().flatten().tolist()
    assert len(set(by_probability) & set(by_rank)) < 15


@pytest.mark.parametrize("k", [0, 258])
def test_number_of_tokens_that_does_not_fit_the_vocabulary_is_named(prompts: Tensor, k: int) -> None:
    with pytest.raises(ValueError, match=f"k={k} tokens cannot have an offset.* 257"):
        probable_bias(decoded(), other(), prompts, k)


# A learned bias


@pytest.fixture
def texts() -> Tensor:
    """Texts of 40 tokens of few kinds; each begins with token 200 and ends with 201, which occur nowhere else."""
    inside = torch.randint(0, 20, (6, 38), generator=torch.Generator().manual_seed(4))
    return torch.cat([torch.full((6, 1), 200), inside, torch.full((6, 1), 201)], dim=1)


def loss_with(model: PreTrainedModel, bias: Tensor, texts: Tensor) -> float:
    logits = torch.cat(list(stream_logits(model, texts)))
    return F.cross_entropy(StaticBias(bias, 1.0)(texts, logits), texts[:, 1:].flatten()).item()


def test_learned_bias_is_nearly_the_best_that_the_texts_can_teach(texts: Tensor) -> None:
    model = sharper(tiny_model(), 3)
    bias = learned_bias(model, texts)
    assert (bias.shape, bias.dtype, bias.requires_grad) == ((257,), torch.float32, False)
    nothing = loss_with(model, torch.zeros(257), texts)
    assert loss_with(model, bias, texts) < nothing - 1
    # At the minimum each token is as probable on average as it is frequent.
    logits = torch.cat(list(stream_logits(model, texts))) + bias
    frequency = texts[:, 1:].flatten().bincount(minlength=257) / texts[:, 1:].numel()
    torch.testing.assert_close(logits.softmax(-1).mean(dim=0), frequency, rtol=0, atol=0.01)


def test_learned_bias_raises_the_tokens_that_follow_others(texts: Tensor) -> None:
    bias = learned_bias(sharper(tiny_model(), 3), texts)
    following, rest = texts[:, 1:].unique(), torch.ones(257, dtype=torch.bool)
    rest[following] = False
    assert rest[200], "the first token of a text follows none"
    assert bias[following].min() > 0 > bias[rest].max()


def test_learning_a_bias_leaves_the_model_as_it_is_and_gives_the_same_for_the_same_seed(texts: Tensor) -> None:
    texts = texts.repeat(3, 1)  # more positions than one step takes
    model = sharper(tiny_model(), 3)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    first, again, another = (learned_bias(model, texts, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, another)
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


# Divergence


def test_divergence_is_that_of_torch() -> None:
    base, model = 3 * random(4, 6, 30), 3 * random(4, 6, 30, seed=1)
    expected = F.kl_div(model.log_softmax(-1), base.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(kl_of_logits(base, model), expected)
    assert (kl_of_logits(base, model) > 0).all()


def test_divergence_of_equal_distributions_is_zero_whatever_constant_their_logits_carry() -> None:
    logits = random(5, 30)
    assert torch.equal(kl_of_logits(logits, logits), torch.zeros(5))
    torch.testing.assert_close(kl_of_logits(logits, logits + random(5, 1, seed=1)), torch.zeros(5), atol=1e-6, rtol=0)


def test_divergence_of_models_is_the_mean_over_all_positions(prompts: Tensor) -> None:
    base, model = decoded(), other()
    with torch.no_grad():
        logits = [each(input_ids=prompts).logits[:, :-1].double() for each in (base, model)]
    expected = kl_of_logits(*logits).mean().item()
    assert kl_from(base, model, prompts) == pytest.approx(expected, rel=1e-3)
    assert kl_from(model, base, prompts) != pytest.approx(expected, rel=5e-3), "it is from the base model"


# Damage


def trained_adapters(size: float = 0.3) -> PeftModel:
    """Adapters of rank 3 on the last block that change something."""
    model = late_stage_lora(sharper(tiny_model(), 3), 1, rank=3)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(size * torch.randn(weight.shape, generator=generator))
    return model


def products(model: PeftModel) -> dict[str, Tensor]:
    """B @ A of every adapter."""
    weights = {name: weight.detach().double() for name, weight in model.named_parameters() if "lora_" in name}
    return {
        name: weights[name.replace("lora_A", "lora_B")] @ weight for name, weight in weights.items() if "lora_A" in name
    }


def test_damage_keeps_the_singular_values_up_to_one_factor_and_no_direction(prompts: Tensor) -> None:
    model = trained_adapters()
    before = products(model)
    factor = damage(model, sharper(tiny_model(), 3), prompts, seed=0)
    after = products(model)
    assert len(before) == 7
    for name, change in before.items():
        values, turned = torch.linalg.svdvals(change)[:3], torch.linalg.svdvals(after[name])[:3]
        torch.testing.assert_close(turned, factor * values, rtol=1e-4, atol=0)
        assert torch.cosine_similarity(change.flatten(), after[name].flatten(), dim=0).abs() < 0.5, name


def test_damaged_model_is_as_far_from_the_base_as_the_trained_one(prompts: Tensor) -> None:
    base, model = sharper(tiny_model(), 3), trained_adapters()
    wanted = kl_from(base, model, prompts)
    damage(model, base, prompts, seed=0)
    assert kl_from(base, model, prompts) == pytest.approx(wanted, rel=0.021)


def test_damage_changes_the_adapters_only(prompts: Tensor) -> None:
    base, model = sharper(tiny_model(), 3), trained_adapters()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    damage(model, base, prompts, seed=0)
    changed = {name for name, weight in model.named_parameters() if not torch.equal(before[name], weight)}
    assert changed == {name for name in before if "lora_" in name}
    intact = sharper(tiny_model(), 3).state_dict()
    assert all(torch.equal(intact[name], weight) for name, weight in base.state_dict().items())


def test_seed_decides_the_directions_of_damage(prompts: Tensor) -> None:
    base, models = sharper(tiny_model(), 3), [trained_adapters() for _ in range(3)]
    factors = [damage(model, base, prompts, seed) for model, seed in zip(models, (1, 1, 2), strict=True)]
    first, again, another = map(products, models)
    assert factors[0] == factors[1]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(
        torch.cosine_similarity(first[name].flatten(), another[name].flatten(), dim=0).abs() < 0.5 for name in first
    )


def test_adapters_that_change_nothing_cannot_be_turned(prompts: Tensor) -> None:
    model = late_stage_lora(tiny_model(), 1, rank=3)
    with pytest.raises(ValueError, match="The adapters change no prediction"):
        damage(model, tiny_model(), prompts, seed=0)


@pytest.mark.parametrize("reached", [0.5, 2.0], ids=["too small", "too large"])
def test_change_that_no_random_one_equals_is_refused(
    prompts: Tensor, reached: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    divergences = itertools.chain([1.0], itertools.repeat(reached))
    monkeypatch.setattr(controls, "kl_from", lambda *_: next(divergences))
    with pytest.raises(ValueError, match="No random change of up to 100 times"):
        damage(trained_adapters(), sharper(tiny_model(), 3), prompts, seed=0)
