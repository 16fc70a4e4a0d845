"""Predictions for machines that nobody had: counted by hand, and by the plan's formulas."""

from __future__ import annotations

import pytest

from hyperfit_course.study.battery import arms_of
from hyperfit_course.study.config import Names, StudyConfig
from hyperfit_course.study.plan import kind_of
from hyperfit_course.study.predicted import MACHINES, SHAPES, Machine, Shape, predicted_units, predictions

PUBLISHED = {
    "TinyLlama-1.1B": 1_100_048_384,
    "Qwen2.5-1.5B": 1_543_714_304,
    "Llama-3.1-8B": 8_030_261_248,
    "Llama-3.1-70B": 70_553_706_496,
}
"""Parameters of each model, as its files on the hub hold them."""


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_shapes_have_the_published_number_of_parameters(shape: Shape) -> None:
    assert shape.parameters() == PUBLISHED[shape.name]


def test_units_of_a_toy_are_those_counted_by_hand() -> None:
    # Two blocks of width 4, one head, 8 inner: 4 matrices of 16, 3 of 32, two norms of 4: 168. A head of 10 x 4.
    toy = Shape("toy", 2, 4, 8, 1, 1, 10, tied=True)
    assert toy.parameters() == 2 * 168 + 40 + 4 == 380
    assert toy.adapters(1, rank=2) == 2 * (4 * 8 + 3 * 12)
    machine = Machine("slow", memory=1e6, half=1000.0, single=100.0, bandwidth=10.0)
    asked = StudyConfig(arms=Names(["full", "last1"]), length=64, batch_size=2, prompts=3, rank=2).resolved()
    units = predicted_units(toy, machine, asked)
    full, last = (kind_of(arm) for arm in arms_of(asked)[1:])
    whole = 2 * 168 + 40
    assert units.weights == 4 * 380
    assert units.read == pytest.approx(2 * whole * 64 / (0.3 * 100))
    assert units.token(1) == pytest.approx(4 * 380 / 10), "few prompts: all weights have to be read"
    assert units.token(1000) == pytest.approx(2 * whole * 1000 / (0.3 * 100)), "many: the operations decide"
    assert units.step[full] == pytest.approx(6 * whole * 128 / (0.3 * 1000) + 28 * 380 / 10)
    assert units.step[last] == pytest.approx(4 * (168 + 40) * 128 / (0.3 * 1000) + 28 * 136 / 10)
    activations = 2 * 64 * 4 * (34 + 5 * 1 * 64 / 4)
    assert units.peak_step[full] == 16 * 380 + 2 * activations
    assert units.peak_step[last] == 4 * 380 + 16 * 136 + activations


def test_table_has_every_model_on_every_machine_and_says_what_fits() -> None:
    table = predictions()
    assert len(table) == len(SHAPES) * len(MACHINES)
    of = table.set_index(["model", "machine"])
    # 16 bytes a parameter: 1.1 billion need 17.6 GB, and 70 billion more than 1,100 GB.
    fit = {place: [arm for arm in ("full", "last5") if row[f"{arm}, seconds"] > 0] for place, row in of.iterrows()}
    assert fit["TinyLlama-1.1B", "T4"] == ["last5"]
    assert fit["TinyLlama-1.1B", "A100 80 GB"] == ["full", "last5"]
    assert fit["Llama-3.1-8B", "T4"] == []
    assert fit["Llama-3.1-8B", "A100 80 GB"] == ["last5"]
    assert fit["Llama-3.1-8B", "8 x H100"] == ["full", "last5"]
    assert fit["Llama-3.1-70B", "8 x H100"] == ["last5"]
    for place, row in of.iterrows():
        assert (row["study, minutes"] > 0) == (fit[place] == ["full", "last5"])
    # 10 bytes a parameter, and the activations of four short texts.
    of_8 = of["full, 8-bit moments, gigabytes"].xs("T4", level="machine")
    assert 11 < of_8["TinyLlama-1.1B"] < 12.5 < 16 < of["full, gigabytes"]["TinyLlama-1.1B", "T4"]
    times = of["last5, seconds"]["TinyLlama-1.1B"]
    assert times["T4"] > times["A100 80 GB"] > times["8 x H100"]
