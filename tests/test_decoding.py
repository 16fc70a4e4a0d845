from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import FAMILIES, tiny_model
from peft import PeftModel
from samples import sharper
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from hyperfit_course import decoding
from hyperfit_course.anatomy import CausalLM
from hyperfit_course.decoding import continue_prompts, kept_continuations
from hyperfit_course.late_stage import late_stage_lora

NEW = 12


@pytest.fixture
def model() -> PreTrainedModel:
    return sharper(tiny_model(), 8)


@pytest.fixture
def prompts() -> Tensor:
    return torch.randint(0, 256, (3, 10), generator=torch.Generator().manual_seed(0))


def naive_greedy(model: PreTrainedModel, prompts: Tensor, new: int = NEW) -> Tensor:
    tokens, end = prompts, model.generation_config.eos_token_id
    for _ in range(new):
        with torch.no_grad():
            logits = model(input_ids=tokens, use_cache=False).logits[:, -1]
        logits[:, end] = -torch.inf
        tokens = torch.cat([tokens, logits.argmax(dim=-1, keepdim=True)], dim=1)
    return tokens[:, prompts.shape[1] :]


def test_greedy_takes_the_most_probable_token_of_full_forward_passes(model: PreTrainedModel, prompts: Tensor) -> None:
    continuations = continue_prompts(model, prompts, NEW)
    assert torch.equal(continuations, naive_greedy(model, prompts))
    assert len(continuations.unique()) > 5, "the model is too simple for this test"


def test_continuation_of_a_prompt_does_not_depend_on_the_others_in_the_batch(
    model: PreTrainedModel, prompts: Tensor
) -> None:
    together = continue_prompts(model, prompts, NEW)
    alone = torch.cat([continue_prompts(model, prompt[None], NEW) for prompt in prompts])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("sample", [False, True])
def test_end_token_is_never_written(model: PreTrainedModel, prompts: Tensor, sample: bool) -> None:
    wanted = int(continue_prompts(model, prompts, NEW)[0, 3])  # what the model would write, were it not the end
    model.generation_config.eos_token_id = wanted
    continuations = continue_prompts(model, prompts, 60, sample=sample, temperature=0.5)
    assert continuations.shape == (3, 60)
    assert wanted not in continuations


def test_all_of_several_end_tokens_are_forbidden(model: PreTrainedModel, prompts: Tensor) -> None:
    ends = continue_prompts(model, prompts, NEW)[:, 0].tolist()
    model.generation_config.eos_token_id = ends
    continuations = continue_prompts(model, prompts, NEW)
    assert continuations.shape == (3, NEW)
    assert not set(ends) & set(continuations.flatten().tolist())


def test_sampling_is_reproduced_by_its_seed_and_changed_by_another(model: PreTrainedModel, prompts: Tensor) -> None:
    first = continue_prompts(model, prompts, NEW, sample=True, seed=1)
    torch.rand(5)  # what was drawn elsewhere in between must not matter
    assert torch.equal(first, continue_prompts(model, prompts, NEW, sample=True, seed=1))
    assert not torch.equal(first, continue_prompts(model, prompts, NEW, sample=True, seed=2))


@pytest.mark.parametrize("restriction", [{"temperature": 1e-4}, {"top_p": 1e-6}])
def test_sampling_from_the_very_top_is_greedy(model: PreTrainedModel, prompts: Tensor, restriction: dict) -> None:
    sampled = continue_prompts(model, prompts, NEW, sample=True, **restriction)
    assert torch.equal(sampled, continue_prompts(model, prompts, NEW))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_sampling_draws_from_the_whole_distribution_at_its_temperature(
    model: PreTrainedModel, temperature: float
) -> None:
    draws, end = 8000, 256
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[65]])).logits[0, -1]
    expected = (logits.index_fill(0, torch.tensor([end]), -torch.inf) / temperature).softmax(dim=-1)
    prompts = torch.full((draws, 1), 65)
    drawn = continue_prompts(model, prompts, 1, sample=True, temperature=temperature)[:, 0]
    frequencies = drawn.bincount(minlength=257) / draws
    assert (frequencies - expected).abs().sum() < 0.15
    tail = expected.argsort(descending=True)[50:]  # beyond the 50 tokens that transformers keeps by default
    assert frequencies[tail].sum().item() == pytest.approx(expected[tail].sum().item(), abs=0.02)


@pytest.mark.parametrize(
    "defaults",
    [
        {"do_sample": True, "temperature": 5.0, "top_p": 0.9, "top_k": 50},
        {"repetition_penalty": 5.0},
        {"no_repeat_ngram_size": 1},
        {"num_beams": 4},
        {"suppress_tokens": list(range(0, 256, 2))},
    ],
    ids=lambda defaults: next(iter(defaults)),
)
def test_greedy_ignores_the_generation_defaults_of_the_model(
    model: PreTrainedModel, prompts: Tensor, defaults: dict[str, object]
) -> None:
    expected = continue_prompts(model, prompts, NEW)
    for name, value in defaults.items():
        setattr(model.generation_config, name, value)
    assert torch.equal(continue_prompts(model, prompts, NEW), expected)


@pytest.mark.parametrize(
    "defaults", [{"temperature": 0.01, "top_k": 1, "top_p": 0.1}, {"min_p": 0.9}, {"repetition_penalty": 5.0}]
)
def test_sampling_ignores_the_generation_defaults_of_the_model(
    model: PreTrainedModel, prompts: Tensor, defaults: dict[str, float]
) -> None:
    expected = continue_prompts(model, prompts, NEW, sample=True)
    for name, value in defaults.items():
        setattr(model.generation_config, name, value)
    assert torch.equal(continue_prompts(model, prompts, NEW, sample=True), expected)


class Forbid(LogitsProcessor):
    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.index_fill(1, torch.tensor([self.token]), -torch.inf)


def test_logits_processor_is_applied_at_each_step(model: PreTrainedModel, prompts: Tensor) -> None:
    token = int(continue_prompts(model, prompts, NEW)[1, -1])
    changed = continue_prompts(model, prompts, NEW, logits_processor=LogitsProcessorList([Forbid(token)]))
    assert token not in changed


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_restored_and_dropout_is_off_meanwhile(model: PreTrainedModel, prompts: Tensor, training: bool) -> None:
    expected = continue_prompts(model, prompts, NEW)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    model.train(training)
    assert torch.equal(continue_prompts(model, prompts, NEW), expected)
    assert model.training == training
    assert model.model.layers[0].training == training


def test_output_has_no_prompt_and_lies_on_the_cpu(model: PreTrainedModel, prompts: Tensor) -> None:
    before = prompts.clone()
    continuations = continue_prompts(model, prompts, 7)
    assert continuations.shape == (3, 7)
    assert continuations.device.type == "cpu"
    assert continuations.dtype == torch.long
    assert torch.equal(prompts, before)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (5,)])
def test_empty_or_flat_prompts_are_refused(model: PreTrainedModel, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="Prompts are token ids of shape"):
        continue_prompts(model, torch.zeros(shape, dtype=torch.long), NEW)


def test_context_can_be_filled_but_not_exceeded(model: PreTrainedModel, prompts: Tensor) -> None:
    assert continue_prompts(model, prompts, 118).shape == (3, 118)
    with pytest.raises(ValueError, match="10 tokens and 119 new ones exceed the model's context of 128"):
        continue_prompts(model, prompts, 119)


def test_progress_bar_counts_the_tokens_and_is_off_by_default(
    model: PreTrainedModel, prompts: Tensor, capsys: pytest.CaptureFixture
) -> None:
    continue_prompts(model, prompts, NEW)
    assert capsys.readouterr().err == ""
    continue_prompts(model, prompts, NEW, progress="tuned")
    assert f"tuned: 100%|██████████| {NEW}/{NEW}" in capsys.readouterr().err


def test_kept_continuations_are_written_once_a_model_and_prompts(
    model: PreTrainedModel, prompts: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = kept_continuations(model, prompts)
    assert torch.equal(first, continue_prompts(model, prompts))
    assert torch.equal(kept_continuations(model, prompts.flip(0)), first.flip(0)), "those of other prompts came back"
    sharper(model, 1.5)
    changed = kept_continuations(model, prompts)
    assert torch.equal(changed, continue_prompts(model, prompts))
    assert not torch.equal(changed, first)

    monkeypatch.setattr(decoding, "continue_prompts", None)  # from here on nothing can be written
    assert torch.equal(kept_continuations(model, prompts), changed)


def adapted(model: PreTrainedModel, alpha: int = 4) -> PeftModel:
    """The model with adapters that change what it writes, the same for every strength."""
    with_adapters = late_stage_lora(model, 1, rank=2, alpha=alpha)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in with_adapters.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return with_adapters


def test_kept_continuations_tell_adapters_of_another_strength_apart(prompts: Tensor) -> None:
    written = []
    for alpha in (4, 16):
        model = adapted(sharper(tiny_model(), 8), alpha)
        written.append(kept_continuations(model, prompts))
        assert torch.equal(written[-1], continue_prompts(model, prompts))
    assert not torch.equal(*written)


def test_kept_continuations_tell_apart_whether_the_adapters_are_on(model: PreTrainedModel, prompts: Tensor) -> None:
    with_adapters = adapted(model)
    on = kept_continuations(with_adapters, prompts)
    with with_adapters.disable_adapter():
        off = kept_continuations(with_adapters, prompts)
        assert torch.equal(off, continue_prompts(with_adapters, prompts))
    assert not torch.equal(on, off)


# Packed weights

MANY = torch.randint(0, 64, (30, 10), generator=torch.Generator().manual_seed(0))  # enough prompts for packed weights


def with_plain_products(model: CausalLM, prompts: Tensor) -> Tensor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "PACKED_PROMPTS", len(prompts) + 1)
        return continue_prompts(model, prompts, NEW)


class PackedLayers(LogitsProcessor):
    """Counts the linear layers of a model that have a forward of their own, at each step."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.seen = model, set[int]()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.seen.add(packed_layers(self.model))
        return scores


def packed_layers(model: nn.Module) -> int:
    return sum("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_weights_write_the_same_tokens(family: str) -> None:
    model = sharper(FAMILIES[family](), 8)
    written = continue_prompts(model, MANY, NEW)
    assert torch.equal(written, with_plain_products(model, MANY))
    assert len(written.unique()) > 5, "the model is too simple for this test"


def test_packed_weights_are_those_of_the_moment(model: PreTrainedModel) -> None:
    first = continue_prompts(model, MANY, NEW)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.neg_()
    changed = continue_prompts(model, MANY, NEW)
    assert torch.equal(changed, with_plain_products(model, MANY))
    assert not torch.equal(changed, first)


def test_adapters_are_at_work_with_packed_weights(model: PreTrainedModel) -> None:
    without = continue_prompts(model, MANY, NEW)
    written = continue_prompts(adapted(model), MANY, NEW)
    assert torch.equal(written, with_plain_products(adapted(sharper(tiny_model(), 8)), MANY))
    assert not torch.equal(written, without)


@pytest.mark.parametrize(
    ("prompts", "dtype", "layers"), [(30, torch.float32, 15), (1, torch.float32, 0), (30, torch.bfloat16, 0)]
)
def test_weights_are_packed_for_many_prompts_in_float32_and_only_meanwhile(
    model: PreTrainedModel, prompts: int, dtype: torch.dtype, layers: int
) -> None:
    watch = PackedLayers(model.to(dtype))
    continue_prompts(model, MANY[:prompts], NEW, logits_processor=LogitsProcessorList([watch]))
    assert watch.seen == {layers}
    assert packed_layers(model) == 0


def test_a_layer_with_a_forward_of_its_own_keeps_it(model: PreTrainedModel) -> None:
    head = model.lm_head
    head.forward = lambda inputs: nn.functional.linear(inputs, -head.weight)
    assert not torch.equal(continue_prompts(model, MANY, NEW), continue_prompts(sharper(tiny_model(), 8), MANY, NEW))
    assert "forward" in vars(head)


def test_layers_are_as_before_when_decoding_fails(model: PreTrainedModel) -> None:
    class Fails(LogitsProcessor):
        def __call__(self, *_: Any) -> Tensor:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        continue_prompts(model, MANY, NEW, logits_processor=LogitsProcessorList([Fails()]))
    assert packed_layers(model) == 0
