"""How much text fits into a low-rank adapter? Many adapters in one batch, each with a random text to learn by heart."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.optimize import curve_fit
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm
from transformers import PreTrainedModel

from hyperfit_course.anatomy import blocks_of, body_of
from hyperfit_course.frozen import frozen_prefix
from hyperfit_course.models import EMBEDDED, context_length, load_model
from hyperfit_course.study.recording import Row, Task

HALF = math.log(2)  #: Nats: the loss of a token with a probability of one half.
PROMPT = "Here is a list of words to learn by heart:"
BLOCK = 27  #: The third from the end.
EVERY = 12  #: The model chooses among every twelfth token: 4,096 of 49,152.
LONGEST = 128
RANKS = (1, 2, 4, 8)
STEPS, RATE = 40, 0.15
SEEDS = (0, 1, 2)


class Bypasses(nn.Module):
    """A batch of low-rank bypasses of one MLP, one for each row (Xu et al. 2026, ``LoraIntervention`` of their code).

    A bypass adds ``x @ down @ up`` to the output of a block, where ``x`` is the input of its MLP, after the norm. It
    has ``2 * width * rank`` numbers and no further factor. ``up`` starts at zero, so at first nothing is changed.

    Args:
        ranks: of each row; all rows get the columns of the largest, and those beyond their own rank stay 0.
        width: of the model.
        seed: of the start of ``down``; ranks of one seed share the directions of their first columns.

    Raises:
        ValueError: a rank is below 1 or above the width.
    """

    def __init__(self, ranks: Sequence[int], width: int, seed: int = 0) -> None:
        super().__init__()
        if not ranks or min(ranks) < 1 or max(ranks) > width:
            raise ValueError(f"Ranks lie between 1 and the width of the model, {width}, and these are {list(ranks)}.")
        drawn = 2 * torch.rand(max(ranks), width, generator=torch.Generator().manual_seed(seed)) - 1
        self.down = nn.Parameter(torch.zeros(len(ranks), width, max(ranks)))
        self.up = nn.Parameter(torch.zeros(len(ranks), max(ranks), width))
        for row, rank in enumerate(ranks):
            self.down.data[row, :, :rank] = drawn[:rank].T / math.sqrt(rank)  # the bound of the authors' code

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.down @ self.up

    @contextlib.contextmanager
    def around(self, model: PreTrainedModel, block: int) -> Iterator[None]:
        """Let the MLP of a block be bypassed, in batches of as many rows as there are bypasses."""
        mlp = blocks_of(model)[block].mlp
        handle = mlp.register_forward_hook(  # type: ignore[union-attr]  # torch types parts of modules loosely
            lambda module, inputs, output: output + self(inputs[0])
        )
        try:
            yield
        finally:
            handle.remove()


class Reciter:
    """A frozen model that reads a prompt and then texts. What comes before the bypassed block is computed once.

    Args:
        model: its weights are frozen by this.
        prompt: token ids, shape (m,), which are not learned. Without one, no small change moves the prediction of the
            first token: the states of the first position are very large.
        texts: shape (k, length), as places in ``tokens``.
        tokens: ids of the tokens that the model chooses from.
        block: the number of the block whose MLP is bypassed, counted from 0.

    Raises:
        ValueError: the prompt or the texts are empty or too long, or there is no such block.
    """

    def __init__(self, model: PreTrainedModel, prompt: Tensor, texts: Tensor, tokens: Tensor, block: int) -> None:
        length, most = len(prompt) + texts.shape[-1], context_length(model)
        if not len(prompt) or not texts.numel():
            raise ValueError("A prompt of at least one token comes before every text, and a text has at least one.")
        if length > most:
            raise ValueError(f"Prompt and text have {length} tokens, and the model reads {most}: take shorter texts.")
        if not 0 < block < len(blocks_of(model)):
            raise ValueError(f"Choose a block from 1 to {len(blocks_of(model)) - 1}, and not {block}.")
        model.requires_grad_(False)
        self.model, self.block, self.texts = model, block, texts.to(model.device)
        self.head = model.get_output_embeddings().weight[tokens]
        self.ids = torch.cat([prompt.expand(len(texts), -1), tokens[texts]], 1).to(model.device)
        self.prefix = frozen_prefix(model, self.ids, block)

    def logits(self, bypasses: Bypasses, index: Tensor) -> Tensor:
        """Of the tokens to choose from, at each token of the texts ``index``, shape (n, length, tokens)."""
        with self.prefix.replayed(index), bypasses.around(self.model, self.block):
            states = body_of(self.model)(input_ids=self.ids[index], use_cache=False)[0]
        return states[:, -self.texts.shape[1] - 1 : -1] @ self.head.T


def random_text(seed: int, length: int, tokens: int) -> Tensor:
    """Places in a list of tokens, all equally likely, shape (length,). Texts of a seed begin alike."""
    if not 1 <= length <= LONGEST:
        raise ValueError(f"Texts have 1 to {LONGEST} tokens, and not {length}.")
    return torch.randint(tokens, (LONGEST,), generator=torch.Generator().manual_seed(seed))[:length]


def threshold_weights(losses: Tensor, threshold: float, fallback: bool = True) -> Tensor:
    """How much each token counts in training (Xu et al. 2026, *MemFT-OT*): those above the threshold, equally.

    Args:
        losses: of tokens, shape (n, length), in nats.
        threshold: tokens with a loss above it count; 0 makes ordinary training.
        fallback: whether all tokens of a text count where none is above (in the authors' code, for long texts); else
            none does (for their phone book).

    Returns:
        Constants of the same shape. Those of a text have the sum 1, or 0.
    """
    above = (losses.detach() > threshold).to(losses.dtype)
    if fallback:
        above = torch.where(above.any(-1, keepdim=True), above, torch.ones_like(above))
    return above / above.sum(-1, keepdim=True).clamp(min=1)


class Course(NamedTuple):
    """How learning went: before every step, and after the last."""

    losses: Tensor  #: Of every token, shape (steps + 1, n, length), in nats.
    right: Tensor  #: Whether it is the most probable one, the same shape.


def memorise(
    reciter: Reciter,
    bypasses: Bypasses,
    index: Tensor,
    steps: int = STEPS,
    rate: float = RATE,
    threshold: float = 0.0,
    progress: str | None = None,
) -> Course:
    """Train bypasses in place, each on its own text and as if it were alone: Adam, a rate that falls linearly to 0, and
    a gradient that is clipped to length 1 for each.

    Args:
        index: the number of the text of each bypass, shape (n,).
        threshold: of :func:`threshold_weights`.
        progress: what the progress bar says; none is shown without it.

    Raises:
        ValueError: there is no step, or a loss is no number any more.
    """
    if steps < 1:
        raise ValueError("Learning takes at least one step.")
    trained, targets = list(bypasses.parameters()), reciter.texts[index]
    optimizer = torch.optim.Adam(trained, lr=rate)
    losses, right = [], []
    for step in tqdm(range(steps + 1), desc=progress, disable=progress is None, mininterval=2):
        logits = reciter.logits(bypasses, index)
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
        if not loss.isfinite().all():
            raise ValueError(f"A loss is no number after {step} steps: try a lower rate.")
        losses.append(loss.detach())
        right.append(logits.detach().argmax(-1) == targets)
        if step == steps:
            break
        (loss * threshold_weights(loss, threshold)).sum().backward()
        length = sum(  # type: ignore[union-attr]  # torch's types do not know that backward() leaves gradients
            each.grad.square().sum((1, 2), keepdim=True) for each in trained if each.grad is not None
        ).sqrt()
        for each in trained:
            each.grad /= length.clamp(min=1)  # type: ignore[arg-type, operator]
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        optimizer.step()
        optimizer.zero_grad()
    return Course(torch.stack(losses).cpu(), torch.stack(right).cpu())


def power_law(x: tuple[ArrayLike, ArrayLike], c: float, alpha: float, beta: float, b: float = 0.0) -> np.ndarray:
    """``c * rank**alpha * length**-beta + b``, the fall of the loss as Xu et al. (2026) write it."""
    rank, length = np.asarray(x, dtype=float)
    return c * rank**alpha * length**-beta + b


def logarithm(x: tuple[ArrayLike, ArrayLike], c: float, k: float, m: float) -> np.ndarray:
    """``c + k * log(rank) - m * log(length)``."""
    rank, length = np.log(np.asarray(x, dtype=float))
    return c + k * rank - m * length


LAWS = {
    "power law, free": (power_law, (10.0, 0.3, 0.3, 0.0)),
    "power law, b = 0": (power_law, (10.0, 0.3, 0.3)),
    "logarithm": (logarithm, (10.0, 1.0, 1.0)),
}
"""Forms of the law, and where the search for their numbers starts."""


def fit_law(name: str, rank: ArrayLike, length: ArrayLike, fall: ArrayLike) -> np.ndarray:
    """The numbers of one of the :data:`LAWS` with the least squares, in the order of its arguments.

    Raises:
        ValueError: there are fewer cells than numbers.
    """
    law, start = LAWS[name]
    if np.size(fall) < len(start):
        raise ValueError(f"A fit of {len(start)} numbers needs as many cells, and there are {np.size(fall)}.")
    return curve_fit(law, (rank, length), fall, p0=start, maxfev=100_000)[0]


@dataclass(frozen=True)
class Learning:
    """One way to learn texts of one length by heart."""

    name: str
    length: int
    steps: int = STEPS
    threshold: float = 0.0
    ranks: tuple[int, ...] = RANKS


@functools.cache
def _course_model() -> tuple[PreTrainedModel, Tensor, Tensor]:
    """The model, the prompt, and the tokens that it chooses from."""
    model, tokenizer = load_model()
    prompt = torch.tensor(tokenizer(PROMPT)["input_ids"])
    return model, prompt, torch.arange(0, model.config.vocab_size, EVERY)


def course_reciter(seeds: Sequence[int], length: int) -> Reciter:
    """The model of the course with the texts of some seeds."""
    model, prompt, tokens = _course_model()
    texts = torch.stack([random_text(seed, length, len(tokens)) for seed in seeds])
    return Reciter(model, prompt, texts, tokens, BLOCK)


def run(learning: Learning, seed: int) -> Iterator[Row]:
    """Let bypasses of several ranks learn one text, and give a row for each."""
    reciter = course_reciter([seed], learning.length)
    bypasses = Bypasses(learning.ranks, reciter.head.shape[1], seed)
    index = torch.zeros(len(learning.ranks), dtype=torch.long)
    losses, right = memorise(reciter, bypasses, index, learning.steps, threshold=learning.threshold)
    sure = losses < HALF
    for row, rank in enumerate(learning.ranks):
        yield {
            "learning": learning.name,
            "seed": seed,
            "length": learning.length,
            "rank": rank,
            "before": round(losses[0, row].mean().item(), 5),
            "loss": round(losses[-1, row].mean().item(), 5),
            "right": int(right[-1, row].sum()),
            "unsure_and_right": int((right & ~sure)[-1, row].sum()),
            "sure_and_wrong": int((sure & ~right)[:, row].sum()),
            "losses": [round(each, 4) for each in losses[-1, row].tolist()],
            "curve": [round(each, 4) for each in losses[:, row].mean(-1).tolist()],
            "right_curve": right[:, row].sum(-1).tolist(),
        }


def learnings() -> list[tuple[Learning, int]]:
    """What is recorded, each with its seed, the most wanted first."""
    groups = (
        (Learning("SFT", 32), Learning("OT", 32, threshold=HALF), Learning("SFT", 64), Learning("SFT", 16)),
        (Learning("OT", 64, threshold=HALF), Learning("SFT, four times the steps", 32, steps=4 * STEPS, ranks=(1,))),
        (Learning("SFT", 128),),
    )
    return [(learning, seed) for group in groups for seed in SEEDS for learning in group]


def tasks() -> list[Task]:
    """What is recorded."""
    common = {"model": EMBEDDED, "block": BLOCK, "every": EVERY, "prompt": PROMPT, "rate": RATE}
    return [
        Task(
            f"{learning.name}, {learning.length} tokens, seed {seed}",
            {**common, **asdict(learning), "ranks": list(learning.ranks), "seed": seed},
            partial(run, learning, seed),
        )
        for learning, seed in learnings()
    ]
