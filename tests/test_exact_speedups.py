"""The lab on exact speed-ups: every lever computes the same, in float64, as the plain loop and the Trainer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from conftest import tiny_model
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from hyperfit_course.anatomy import blocks_of
from hyperfit_course.frozen import PrefixError
from hyperfit_course.labs import exact_speedups as lab
from hyperfit_course.labs.exact_speedups import (
    DRIFT,
    DRIFT_SEEDS,
    LOOPS,
    TIMED_SEEDS,
    WAYS,
    AdaptedMLP,
    Loop,
    Way,
    adapted,
    drift,
    lora_backward,
    own_backward,
    put,
    step_times,
    tasks,
)
from hyperfit_course.late_stage import late_stage_lora
from hyperfit_course.losses import linear_cross_entropy

EXACT = [way for way in LOOPS if not way.bfloat16]


def small(blocks: int = 2, dtype: torch.dtype = torch.float64) -> PeftModel:
    """A model of four blocks with adapters on the last ones, none of whose factors is zero."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=16,
        intermediate_size=40,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    model = late_stage_lora(LlamaForCausalLM(config), blocks, rank=3).to(dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=dtype))
    if dtype == torch.float64:  # norms and loss of transformers compute in float32 in every precision
        model.get_base_model().loss_function = mean_loss
        for norm in (module for module in model.modules() if isinstance(module, LlamaRMSNorm)):
            norm.forward = partial(functional.rms_norm, normalized_shape=(16,), weight=norm.weight, eps=1e-6)
    return model


def mean_loss(logits: Tensor, labels: Tensor, **_: Any) -> Tensor:
    """What the Trainer is to minimise, in the precision of the logits."""
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def texts(number: int = 3, length: int = 9) -> Tensor:
    return torch.randint(61, (number, length), generator=torch.Generator().manual_seed(2))


def maps(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Weight, A and B of gate, up and down."""
    generator, sizes = torch.Generator().manual_seed(3), [(6, 10), (6, 10), (10, 6)]
    shapes = [shape for inputs, outputs in sizes for shape in ((outputs, inputs), (2, inputs), (outputs, 2))]
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


# One step


def test_three_steps_of_every_exact_way_end_at_the_same_weights_in_float64() -> None:
    found = {}
    for way in EXACT:
        loop = Loop(small(), texts(), way)
        losses = [loop.step(index) for index in (torch.tensor([0, 1]), torch.tensor([2, 0]), torch.tensor([1, 2]))]
        found[way.name] = torch.cat([torch.tensor(losses, dtype=torch.float64), loop.weights()])
    plain = found.pop("loop")
    assert not torch.equal(plain[3:], Loop(small(), texts(), LOOPS[0]).weights()), "nothing was learned"
    for name, values in found.items():
        torch.testing.assert_close(values, plain, rtol=1e-10, atol=1e-10, msg=name)


def test_the_trainer_takes_the_steps_of_the_loop_in_float64() -> None:
    ours, theirs = Loop(small(), texts(), LOOPS[0]), small()
    for _ in range(3):
        ours.step(torch.arange(3))
    seen: dict[str, Any] = {}

    class Kept(Trainer):
        def __init__(self, *arguments: Any, **others: Any) -> None:
            super().__init__(*arguments, **{**others, "args": replace_steps(others["args"])})
            seen["arguments"] = self.args

    def replace_steps(arguments: TrainingArguments) -> TrainingArguments:
        return replace(arguments, max_steps=3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lab, "Trainer", Kept)
        assert lab.trainer_seconds(theirs, texts()) > 0
    assert seen["arguments"].max_steps == 3
    weights = torch.cat([p.detach().flatten() for p in theirs.parameters() if p.requires_grad])
    torch.testing.assert_close(weights, ours.weights(), rtol=1e-10, atol=1e-10)


def test_half_precision_is_the_way_that_is_not_exact() -> None:
    index, plain = torch.arange(2), Loop(small(dtype=torch.float32), texts(), LOOPS[0])
    expected = plain.gradients(index)
    apart = {}
    for way in LOOPS[1:]:
        found = Loop(small(dtype=torch.float32), texts(), way).gradients(index)
        apart[way.name] = ((found - expected).norm() / expected.norm()).item()
    assert apart.pop("stored prefix, bfloat16") > 1e-3
    assert max(apart.values()) < 1e-5


@pytest.mark.parametrize("way", EXACT, ids=lambda way: way.name)
def test_the_gradient_of_the_loop_is_that_of_finite_differences(way: Way) -> None:
    loop, index = Loop(small(), texts(), way), torch.tensor([0, 2])
    gradient = loop.gradients(index)
    direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    start, losses = [p.detach().clone() for p in loop.trained], []
    for sign in (1, -1):
        moved = (torch.cat([p.flatten() for p in start]) + sign * 1e-6 * direction).split([p.numel() for p in start])
        put(loop.model, [part.view_as(p) for part, p in zip(moved, start, strict=True)])
        losses.append(loop.loss(index).item())
    assert (losses[0] - losses[1]) / 2e-6 == pytest.approx((gradient @ direction).item(), rel=1e-5)


# The backward pass by hand


def test_the_backward_pass_by_hand_is_that_of_finite_differences() -> None:
    x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64, requires_grad=True)
    inputs = [each.requires_grad_(number % 3 > 0) for number, each in enumerate(maps())]
    assert torch.autograd.gradcheck(lambda x, *maps: AdaptedMLP.apply(x, 1.7, *maps), (x, *inputs))


def test_the_loss_without_the_table_has_the_gradient_of_finite_differences() -> None:
    hidden, weight = (torch.randn(5, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    targets = torch.tensor([0, 4, 1, 1, 2])
    assert torch.autograd.gradcheck(lambda h, w: linear_cross_entropy(h, w, targets, chunk=2), (hidden, weight))


def test_an_adapted_map_and_its_gradients_are_those_of_autograd() -> None:
    weight, a, b = maps()[:3]
    x = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    a, b = a.requires_grad_(), b.requires_grad_()
    y = functional.linear(x, weight + 0.5 * b @ a)
    torch.testing.assert_close(adapted(x, weight, a, b, 0.5), y)
    dy = torch.randn_like(y)
    for found, expected in zip(
        lora_backward(x, dy, weight, a, b, 0.5), torch.autograd.grad(y, (x, a, b), dy), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_the_own_mlp_puts_out_the_same_bits_and_keeps_three_large_tensors_and_not_five() -> None:
    model = small(blocks=1, dtype=torch.float32)
    mlp = blocks_of(model)[-1].mlp
    x = torch.randn(2, 50, 16, requires_grad=True)

    def large() -> tuple[Tensor, list[int]]:
        """Output, and the widths of what is kept of every position, each storage once."""
        kept: dict[int, Tensor] = {}

        def keep(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            y = mlp(x)
        return y, sorted(t.numel() // 100 for t in kept.values() if t.numel() >= 100 * 16)

    plain, widths = large()
    assert widths == [16, 40, 40, 40, 40]
    with own_backward(model):
        own, widths = large()
    assert widths == [16, 40, 40]
    assert torch.equal(own, plain)
    assert "forward" not in vars(mlp), "the MLP is as it was"


def _with_dropout(model: PeftModel) -> None:
    blocks_of(model)[-1].mlp.up_proj.lora_dropout["default"] = nn.Dropout(0.1)


def _with_bias(model: PeftModel) -> None:
    layer = blocks_of(model)[-1].mlp.gate_proj.base_layer
    layer.bias = nn.Parameter(torch.zeros(layer.out_features))


def _other_activation(model: PeftModel) -> None:
    blocks_of(model)[-1].mlp.act_fn = nn.GELU()


@pytest.mark.parametrize("spoil", [_with_dropout, _with_bias, _other_activation])
def test_an_mlp_that_computes_something_else_is_not_replaced(spoil: Callable[[PeftModel], None]) -> None:
    model = small()
    spoil(model)
    with pytest.raises(ValueError, match="Only a SwiGLU without biases"), own_backward(model):
        pass
    assert all("forward" not in vars(block.mlp) for block in blocks_of(model))


def test_a_model_without_adapters_on_its_mlps_has_nothing_to_replace() -> None:
    only_attention = get_peft_model(tiny_model(), LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="No MLP has adapters"), own_backward(only_attention):
        pass
    some = get_peft_model(tiny_model(), LoraConfig(r=2, target_modules=["down_proj"]))
    with pytest.raises(ValueError, match="Only a SwiGLU"), own_backward(some):
        pass


# Bad input


def test_bad_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="a way of the Trainer"):
        Loop(small(), texts(), WAYS[0])
    with pytest.raises(ValueError, match="nothing to predict"):
        Loop(small(), texts(length=1), LOOPS[0])
    with pytest.raises(PrefixError, match="keep that of one block at least"):
        Loop(small(blocks=4), texts(), LOOPS[2])


# What is recorded


def test_each_way_has_one_lever_more_than_the_one_before() -> None:
    levers = [sum([way.chunked, way.cached, way.own]) for way in EXACT]
    assert levers == [0, 1, 2, 3]
    assert replace(LOOPS[-1], bfloat16=False, name=LOOPS[2].name) == LOOPS[2]
    assert [way.trainer for way in WAYS] == [True, True, *([False] * len(LOOPS))]


def test_tasks_are_json_and_each_seed_is_there_once() -> None:
    wanted = tasks()
    configurations = [task.configuration for task in wanted]
    assert json.loads(json.dumps(configurations)) == configurations
    assert [(each["kind"], each["seed"]) for each in configurations] == [
        *(("time", seed) for seed in TIMED_SEEDS),
        *(("drift", seed) for seed in DRIFT_SEEDS),
    ]


@pytest.fixture
def _small_course(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lab with a tiny model and texts of its tokens."""
    monkeypatch.setattr(lab, "load_model", lambda device: (tiny_model().to(device), None))

    class Course:
        @staticmethod
        def texts(corpus: str, seed: int) -> dict[str, Tensor]:
            return {"train": torch.randint(257, (8, 128), generator=torch.Generator().manual_seed(seed))}

    monkeypatch.setattr(lab, "COURSE", Course)
    monkeypatch.setattr(lab, "BLOCKS", 1)
    loops = tuple(replace(way, blocks=1) for way in LOOPS)
    monkeypatch.setattr(lab, "LOOPS", loops)
    monkeypatch.setattr(lab, "WAYS", (replace(WAYS[0], blocks=2), replace(WAYS[1], blocks=1), *loops))
    lab._models.cache_clear()


@pytest.mark.usefixtures("_small_course")
def test_times_take_turns_and_leave_the_threads_alone() -> None:
    threads, rows = torch.get_num_threads(), [list(step_times(seed)) for seed in (0, 1)]
    names = [way.name for way in WAYS]
    assert [row["way"] for row in rows[0]] == names
    assert [row["way"] for row in rows[1]] == names[::-1]
    assert all(row["seconds"] > 0 for some in rows for row in some)
    assert torch.get_num_threads() == threads
    lab._models.cache_clear()


@pytest.mark.usefixtures("_small_course")
def test_runs_that_are_compared_start_alike_and_only_one_of_them_is_rounded() -> None:
    rows = {row["way"]: row for row in drift(0)}
    assert [*rows] == [*(way.name for way in LOOPS), "other order of texts"]
    assert rows["loop"]["gradient"] == 0
    assert set(rows["loop"]["weights"]) == {0.0}
    assert all(len(row["weights"]) == len(row["losses"]) == DRIFT["steps"] for row in rows.values())
    others = [rows[way.name] for way in LOOPS[1:4]] + [rows["other order of texts"]]
    assert all(row["gradient"] < 1e-5 and row["weights"][4] < 1e-2 for row in others)
    assert rows["stored prefix, bfloat16"]["gradient"] > 1e-3
    assert rows["loop"]["losses"][-1] < rows["loop"]["losses"][0]
