"""What would a study take on machines that we do not have? The plan's formulas, with published numbers.

Every value here is a prediction, and none is a measurement. The shapes are those of the models' ``config.json`` on the
hub. Peak throughputs and bandwidths are those of NVIDIA's data sheets for the T4, the A100 SXM with 80 GB and the H100
SXM, without sparsity. A matrix of n parameters takes 2 n operations a token, and 6 n with its backward pass (Kaplan et
al., 2020, arXiv 2001.08361, section 2.1). Activations of a block are those of Korthikanti et al. (2022, arXiv
2205.05198, equation 1), which is for another kind of block in 16 bits. What is not counted: loading, the attention
products (below 1 % of a block's work at 128 tokens), the time of Python between operations, and all communication
between GPUs. So times of small models and of several GPUs are lower bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from hyperfit_course.study.battery import arms_of
from hyperfit_course.study.config import StudyConfig
from hyperfit_course.study.plan import Units, kind_of, planned

UTILISATION = 0.3
"""Share of the peak throughput that is reached: an assumption. A large training reports .46 (PaLM, Chowdhery et al.,
2022, arXiv 2204.02311); steps of 4 short texts should reach less."""
SINGLE = 4  #: Bytes of a number in float32: models are held in it, and read and written in it.
TRAINED = 16  #: Bytes of a trained parameter: weight, gradient and two moments of AdamW, each in float32.
SPARED = 6  #: Bytes of it that moments of 8 bits spare (:mod:`~hyperfit_course.optimizers`).
UPDATE = 28  #: Bytes that AdamW moves for it in a step: four are read, three are written.


@dataclass(frozen=True)
class Shape:
    """The sizes of a model of the Llama kind: grouped attention, a gated feed-forward layer, RMS norms."""

    name: str
    blocks: int
    width: int
    inner: int  #: Width of the feed-forward layer.
    heads: int
    key_heads: int
    vocabulary: int
    tied: bool = False  #: Whether the head shares its weights with the embedding.
    biased: bool = False  #: Whether queries, keys and values have a bias.

    def matrices(self) -> list[tuple[int, int]]:
        """Inputs and outputs of each matrix of a block: queries, keys, values, output, gate, up, down."""
        keys = self.width // self.heads * self.key_heads
        sizes = [(self.width, self.width), (self.width, keys), (self.width, keys), (self.width, self.width)]
        return [*sizes, (self.width, self.inner), (self.width, self.inner), (self.inner, self.width)]

    def block(self) -> int:
        """Parameters of a block."""
        matrices = self.matrices()
        bias = sum(outputs for _, outputs in matrices[:3]) if self.biased else 0
        return sum(inputs * outputs for inputs, outputs in matrices) + bias + 2 * self.width

    def head(self) -> int:
        """Parameters of the head."""
        return self.vocabulary * self.width

    def parameters(self) -> int:
        """All of the model."""
        return self.blocks * self.block() + self.head() * (1 if self.tied else 2) + self.width

    def adapters(self, blocks: int, rank: int) -> int:
        """Parameters of LoRA adapters of that rank on all matrices of so many blocks."""
        return blocks * rank * sum(map(sum, self.matrices()))


@dataclass(frozen=True)
class Machine:
    """Peaks of one or several GPUs that share the work evenly."""

    name: str
    memory: float  #: Bytes.
    half: float  #: Operations a second in float16 or bfloat16, dense, on tensor cores.
    single: float  #: The same in float32.
    bandwidth: float  #: Bytes a second from and to memory.


SHAPES = (
    Shape("TinyLlama-1.1B", 22, 2048, 5632, 32, 4, 32_000),
    Shape("Qwen2.5-1.5B", 28, 1536, 8960, 12, 2, 151_936, tied=True, biased=True),
    Shape("Llama-3.1-8B", 32, 4096, 14336, 32, 8, 128_256),
    Shape("Llama-3.1-70B", 80, 8192, 28672, 64, 8, 128_256),
)
MACHINES = (
    Machine("T4", 16e9, 65e12, 8.1e12, 320e9),
    Machine("A100 80 GB", 80e9, 312e12, 19.5e12, 2039e9),
    Machine("8 x H100", 8 * 80e9, 8 * 989e12, 8 * 67e12, 8 * 3350e9),
)


def predicted_units(shape: Shape, machine: Machine, config: StudyConfig) -> Units:
    """The pieces of work that a plan counts, from published numbers.

    Args:
        config: resolved, with no arm that has to load the model to be known (``all``).
    """
    batch, length, prompts = config.batch_size or 1, config.length or 1, config.prompts or 1
    whole = shape.blocks * shape.block() + shape.head()  # what every token passes through
    weights, speed = SINGLE * shape.parameters(), UTILISATION * machine.single
    read = 2 * whole * length / speed
    activations = batch * length * shape.width * (34 + 5 * shape.heads * length / shape.width)  # of a block
    step, peak = {}, {}
    for arm in arms_of(config):
        if arm.config is None:
            continue
        blocks = arm.count or shape.blocks
        trained = shape.parameters() if arm.rank is None else shape.adapters(blocks, arm.rank)
        # Blocks before the first trained one run once, and frozen weights need no gradient of their own.
        work = 6 * whole if arm.rank is None else 4 * (blocks * shape.block() + shape.head())
        moved = UPDATE * trained / machine.bandwidth
        step[kind_of(arm)] = work * batch * length / (UTILISATION * machine.half) + moved
        held = TRAINED * trained + (0 if arm.rank is None else weights)
        peak[kind_of(arm)] = round(held + blocks * activations)

    def token(count: int) -> float:
        return max(weights / machine.bandwidth, 2 * whole * count / speed)  # all weights are read for each

    cache = 2 * SINGLE * shape.blocks * sum(outputs for _, outputs in shape.matrices()[1:2]) * prompts * length
    logits = SINGLE * length * shape.vocabulary
    return Units(0.0, read, token, prompts * read, step, weights, weights + logits, weights + cache, peak)


def predictions() -> pd.DataFrame:
    """A row for each model and machine: what a study with the quick preset would take there, predicted.

    Returns:
        ``model``, ``parameters``, ``machine``, and for each trained arm the ``gigabytes`` at the peak of its training
        and the ``seconds`` of it, named ``full, seconds`` and so on; ``study, minutes`` is that of all parts. Times are
        NaN where the machine's memory does not suffice. ``full, 8-bit moments, gigabytes`` is the peak with these.
    """
    config = StudyConfig().resolved()
    found = []
    for shape in SHAPES:
        for machine in MACHINES:
            table = planned(config, predicted_units(shape, machine, config), shape.blocks)
            row = {"model": shape.name, "parameters": shape.parameters(), "machine": machine.name}
            training = table[table["part"] == "training"]  # the preset has one seed
            for name, (_, each) in zip(config.arms or (), training.iterrows(), strict=True):
                seconds = each["seconds"] if each["bytes"] <= machine.memory else math.nan
                row |= {f"{name}, gigabytes": each["bytes"] / 1e9, f"{name}, seconds": seconds}
            fits = table["bytes"].max() <= machine.memory
            of_full = training["bytes"].iloc[0]  # the preset's first arm
            row["full, 8-bit moments, gigabytes"] = (of_full - SPARED * shape.parameters()) / 1e9
            found.append({**row, "study, minutes": table["seconds"].sum() / 60 if fits else math.nan})
    return pd.DataFrame(found)
