from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import FAMILIES, tiny_model
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from hyperfit_course.late_stage import LateStageError, choose_blocks, late_stage_lora, trained_modules


@pytest.fixture
def texts() -> Tensor:
    return torch.randint(0, 64, (6, 16), generator=torch.Generator().manual_seed(3))


def logits(model: PreTrainedModel | PeftModel, texts: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=texts).logits


# Choosing blocks


@pytest.mark.parametrize(
    ("count", "place", "expected"),
    [
        (2, "last", [4, 5]),
        (2, "first", [0, 1]),
        (2, "middle", [2, 3]),
        (3, "spread", [1, 3, 5]),
        (6, "spread", [0, 1, 2, 3, 4, 5]),
        (6, "middle", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_choice_of_blocks(count: int, place: str, expected: list[int]) -> None:
    assert choose_blocks(FAMILIES["llama"](blocks=6), count, place) == expected


def test_middle_five_of_thirty_blocks_are_13_to_17() -> None:
    assert choose_blocks(FAMILIES["llama"](blocks=30), 5, "middle") == [13, 14, 15, 16, 17]


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (9, r"The model has 6 blocks: choose between 1 and 6 of them, not 9\."),
        (0, "not 0"),
        ([], "The list of blocks is empty"),
        ([2, 6], r"The model has the blocks 0 to 5, and not \[6\]"),
        ([-1], r"not \[-1\]"),
        ([2, 2], "named twice"),
    ],
)
def test_blocks_that_are_not_there_are_refused(blocks: int | list[int], message: str) -> None:
    model = FAMILIES["llama"](blocks=6)
    with pytest.raises(LateStageError, match=message):
        late_stage_lora(model, blocks)
    assert all(parameter.requires_grad for parameter in model.parameters()), "the model was touched"


def test_unknown_place_and_rank_are_refused(model: PreTrainedModel) -> None:
    with pytest.raises(LateStageError, match="There is no place 'end': choose from first, middle, last, spread"):
        choose_blocks(model, 1, "end")
    with pytest.raises(LateStageError, match="at least 1, not 0"):
        late_stage_lora(model, 1, rank=0)


def test_second_adapters_are_refused(model: PreTrainedModel) -> None:
    adapted = late_stage_lora(model, 1)
    for again in (adapted, model):
        with pytest.raises(LateStageError, match="has adapters already"):
            late_stage_lora(again, 1)


# Adapters


@pytest.mark.parametrize("family", FAMILIES)
def test_exactly_the_chosen_blocks_train(family: str) -> None:
    model = late_stage_lora(FAMILIES[family](), [1, 3], rank=2)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert {int(part) for name in trained for part in name.split(".") if part.isdigit()} == {1, 3}
    table = trained_modules(model)
    assert table["block"].unique().tolist() == [1, 3]
    assert table["parameters"].sum() == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert len(table) == len(trained) / 2, "every linear map has an A and a B"


def test_block_1_is_not_taken_for_block_11() -> None:
    model = late_stage_lora(FAMILIES["llama"](blocks=12), [1], rank=2)
    assert trained_modules(model)["block"].unique().tolist() == [1]


def test_number_of_parameters_of_known_shapes(model: PreTrainedModel) -> None:
    # Per block: q and o 32 x 32, k and v 32 x 16, three of 32 x 64; an adapter of rank r has r (in + out).
    expected = 3 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64))
    assert trained_modules(late_stage_lora(model, 1, rank=3))["parameters"].sum() == expected


def test_adapters_change_nothing_before_training_and_their_start_depends_on_the_seed(texts: Tensor) -> None:
    expected = logits(tiny_model(), texts)
    models = [tiny_model() for _ in range(3)]
    random_state = torch.get_rng_state()
    first, again, other = (late_stage_lora(model, 1, seed=seed) for model, seed in zip(models, (0, 0, 1), strict=True))
    assert torch.equal(torch.get_rng_state(), random_state)
    starts = [dict(model.named_parameters()) for model in (first, again, other)]
    name = next(name for name in starts[0] if "lora_A" in name)
    torch.testing.assert_close(logits(first, texts), expected)
    assert torch.equal(starts[0][name], starts[1][name])
    assert not torch.equal(starts[0][name], starts[2][name])


def test_adapters_can_be_saved_loaded_and_merged(texts: Tensor, tmp_path: Path) -> None:
    adapted = late_stage_lora(tiny_model(), 1, rank=2)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    expected = logits(adapted, texts)
    assert not torch.allclose(expected, logits(tiny_model(), texts))
    adapted.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path).eval()
    torch.testing.assert_close(logits(loaded, texts), expected)
    torch.testing.assert_close(logits(adapted.merge_and_unload(), texts), expected, rtol=1e-4, atol=1e-5)
