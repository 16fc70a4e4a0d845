"""Which speed-ups change nothing? One training of adapters in several ways, counted, compared and timed."""

from __future__ import annotations

import contextlib
import functools
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional
from transformers import Trainer, TrainerCallback, TrainingArguments

from hyperfit_course.anatomy import blocks_of
from hyperfit_course.frozen import frozen_depth, frozen_prefix
from hyperfit_course.late_stage import late_stage_lora
from hyperfit_course.losses import next_token_loss
from hyperfit_course.models import EMBEDDED, load_model
from hyperfit_course.study.arms import COURSE
from hyperfit_course.study.recording import Row, Task

RANK, BLOCKS = 12, 5  #: Of chapter 06: adapters of rank 12 on the last five blocks.
RATE, WARMUP, CLIP = 4e-3, 4, 1.0  #: Of chapter 06, too.
TIMED_SEEDS, TIMED = (0, 1, 2, 3, 4), {"texts": 2, "length": 128}  #: Of a step that is timed.
DRIFT_SEEDS, DRIFT = (0, 1, 2), {"texts": 8, "length": 16, "batch": 2, "steps": 20}  #: Of runs that are compared.


def adapted(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """A frozen linear map with an adapter, in the order of operations of PEFT.

    Args:
        x: shape (..., in).
        weight: frozen, shape (out, in).
        a, b: the adapter, shapes (rank, in) and (out, rank).
        scale: alpha / rank.
    """
    return functional.linear(x, weight) + functional.linear(functional.linear(x, a), b) * scale


def lora_backward(
    x: Tensor, dy: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`adapted` with respect to ``x`` (n, in), ``a`` and ``b``, from ``dy`` (n, out), its output's.

    The gradient of the weight, of shape (out, in), is never formed.
    """
    inner = (dy @ b) * scale
    return dy @ weight + inner @ a, inner.T @ x, (dy * scale).T @ (x @ a.T)


class AdaptedMLP(torch.autograd.Function):
    """A SwiGLU MLP with adapters that keeps its input and two of its states, and computes the others again.

    After ``LoRA_MLP`` of Unsloth (``unsloth/kernels/fast_lora.py``). Autograd would also keep ``silu(e)`` and the
    product that enters the last map. It takes the input, the scale of the adapters, and weight, A and B of each map.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, *maps: Tensor) -> Tensor:
        gate, up, down = zip(maps[::3], maps[1::3], maps[2::3], strict=True)
        e, g = adapted(x, *gate, scale), adapted(x, *up, scale)
        ctx.save_for_backward(x, e, g, *maps)
        ctx.scale = scale
        return adapted(functional.silu(e) * g, *down, scale)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, e, g, *maps = ctx.saved_tensors
        x, e, g, dy = (each.flatten(0, -2) for each in (x, e, g, dy))
        gate, up, down = zip(maps[::3], maps[1::3], maps[2::3], strict=True)
        share = e.sigmoid()
        f = e * share
        dh, *of_down = lora_backward(f * g, dy, *down, ctx.scale)
        from_up, *of_up = lora_backward(x, dh * f, *up, ctx.scale)
        de = dh * g * (share + f * (1 - share))
        from_gate, *of_gate = lora_backward(x, de, *gate, ctx.scale)
        dx = (from_gate + from_up).view_as(ctx.saved_tensors[0])
        return dx, None, None, *of_gate, None, *of_up, None, *of_down


@contextlib.contextmanager
def own_backward(model: PeftModel) -> Iterator[None]:
    """Let all MLPs that have adapters use :class:`AdaptedMLP`; in float32 or float64, and not under autocast.

    Raises:
        ValueError: no MLP has adapters, or one is not a SwiGLU with plain adapters.
    """
    mlps: Any = [b.mlp for b in blocks_of(model) if hasattr(getattr(b.mlp, "down_proj", None), "lora_A")]
    if not mlps:
        raise ValueError("No MLP has adapters: put some on with late_stage_lora first.")
    for mlp, (scale, maps) in [(mlp, _maps_of(mlp)) for mlp in mlps]:
        mlp.forward = partial(lambda x, scale, maps: AdaptedMLP.apply(x, scale, *maps), scale=scale, maps=maps)
    try:
        yield
    finally:
        for mlp in mlps:
            del mlp.forward  # the class's own forward shows again


def _maps_of(mlp: Any) -> tuple[float, list[Tensor]]:
    """The scale of the adapters of an MLP, and weight, A and B of its three maps."""
    layers: list[Any] = [getattr(mlp, f"{name}_proj", None) for name in ("gate", "up", "down")]
    plain = all(
        [*getattr(each, "lora_A", ())] == ["default"]
        and each.base_layer.bias is None
        and isinstance(each.lora_dropout["default"], nn.Identity)
        for each in layers
    )
    if not plain or not torch.equal(mlp.act_fn(probe := torch.linspace(-4, 4, 9)), functional.silu(probe)):
        raise ValueError("Only a SwiGLU without biases, with one adapter on each map and no dropout, can be replaced.")
    parts = [(each.base_layer, each.lora_A["default"], each.lora_B["default"]) for each in layers]
    return layers[0].scaling["default"], [part.weight for of_map in parts for part in of_map]


@dataclass(frozen=True)
class Way:
    """One way to take the same steps."""

    name: str
    trainer: bool = False  #: The Trainer of transformers, in place of the loop of the course.
    blocks: int = BLOCKS  #: How many of the last blocks have adapters.
    chunked: bool = False  #: Whether the loss goes without the table of all logits.
    cached: bool = False  #: Whether the output of the frozen blocks is kept.
    own: bool = False  #: Whether the MLPs have the backward pass that is written by hand.
    bfloat16: bool = False  #: Whether products are rounded to 8 bits: the one that is not exact.


LOOPS = (
    Way("loop"),
    Way("+ chunked loss", chunked=True),
    Way("+ stored prefix", chunked=True, cached=True),
    Way("+ own backward", chunked=True, cached=True, own=True),
    Way("stored prefix, bfloat16", chunked=True, cached=True, bfloat16=True),
)
"""Each of the first four has one lever more than the one before. The last is the third one in a lower precision."""
WAYS = (Way("Trainer, all blocks", trainer=True, blocks=30), Way("Trainer, last five", trainer=True), *LOOPS)


class Loop:
    """Training steps of the loop of chapter 06 in one way: AdamW, a warm-up, clipped gradients, no dropout.

    Args:
        model: with adapters, which are trained in place.
        texts: shape (n, length).

    Raises:
        ValueError: the way is one of the Trainer, or a text has no next token.
        PrefixError: a prefix is to be kept, and the first block is trained.
    """

    def __init__(self, model: PeftModel, texts: Tensor, way: Way) -> None:
        if way.trainer:
            raise ValueError(f"{way.name!r} is a way of the Trainer, and not of the loop.")
        if texts.shape[-1] < 2:
            raise ValueError("A text of one token has nothing to predict: take longer ones.")
        self.model, self.texts, self.way, self.taken = model.eval(), texts, way, 0
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=RATE, weight_decay=0.0, fused=True)
        with self._precision():
            self.prefix = frozen_prefix(model, texts, frozen_depth(model)) if way.cached else None

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.texts.device.type, torch.bfloat16, enabled=self.way.bfloat16)

    def loss(self, index: Tensor) -> Tensor:
        """Mean loss of the texts of these numbers, in nats a token."""
        replayed = self.prefix.replayed(index) if self.prefix else contextlib.nullcontext()
        mlps = own_backward(self.model) if self.way.own else contextlib.nullcontext()
        with self._precision(), replayed, mlps:
            if self.way.chunked:
                return next_token_loss(self.model, self.texts[index], plain_head=True)
            # As the Trainer does: to cut off the last position would copy the whole table.
            wanted = functional.pad(self.texts[index][:, 1:], (0, 1), value=-100)
            logits = self.model(input_ids=self.texts[index], use_cache=False).logits
            return functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())

    def gradients(self, index: Tensor) -> Tensor:
        """All gradients in one row, before they are clipped. No step is taken."""
        return torch.cat([each.flatten() for each in torch.autograd.grad(self.loss(index), self.trained)])

    def step(self, index: Tensor) -> float:
        """Take one step, and give the loss before it."""
        loss = self.loss(index)
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, CLIP)
        self.optimizer.param_groups[0]["lr"] = RATE * min(1.0, self.taken / WARMUP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.taken += 1
        return loss.item()

    def weights(self) -> Tensor:
        """All trained weights in one row."""
        return torch.cat([p.detach().flatten() for p in self.trained])


def trainer_seconds(model: PeftModel, texts: Tensor) -> float:
    """CPU seconds of the second of two steps of the Trainer on all texts, in the recipe of :class:`Loop`."""
    seconds: list[float] = []
    timer = TrainerCallback()
    timer.on_step_begin = lambda *_, **__: seconds.append(-time.process_time())  # type: ignore[method-assign]
    timer.on_step_end = lambda *_, **__: seconds.append(time.process_time())  # type: ignore[method-assign]
    recipe = {"learning_rate": RATE, "warmup_steps": WARMUP, "weight_decay": 0.0, "max_grad_norm": CLIP}
    silent = {"save_strategy": "no", "logging_strategy": "no", "report_to": [], "disable_tqdm": True}
    steps = {"max_steps": 2, "per_device_train_batch_size": len(texts), "lr_scheduler_type": "constant_with_warmup"}
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(folder, use_cpu=model.device.type == "cpu", **recipe, **steps, **silent)  # type: ignore[arg-type]
        rows = [{"input_ids": row, "labels": row} for row in texts]
        Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[timer]).train()
    return sum(seconds[-2:])


def put(model: PeftModel, start: list[Tensor]) -> None:
    """Give the trained weights of a model the values that they had."""
    with torch.no_grad():
        for parameter, value in zip((p for p in model.parameters() if p.requires_grad), start, strict=True):
            parameter.copy_(value)


def drift(seed: int) -> Iterator[Row]:
    """Take the same steps in every way from the same start, and give how far each is from the plain loop.

    The last row is a control: the prefix is stored, and the texts of each batch stand in the opposite order.
    """
    model = late_stage_lora(load_model(device="cpu")[0], BLOCKS, RANK, seed=seed)
    texts, order = _texts(seed, DRIFT), torch.Generator().manual_seed(seed)
    epochs = -(-DRIFT["steps"] * DRIFT["batch"] // len(texts))
    batches = torch.cat([torch.randperm(len(texts), generator=order) for _ in range(epochs)]).split(DRIFT["batch"])
    start = [parameter.detach().clone() for parameter in model.parameters() if parameter.requires_grad]
    plain: list[Tensor] = []
    for way, reverse in [*((way, False) for way in LOOPS), (LOOPS[2], True)]:
        put(model, start)
        loop, taken = Loop(model, texts, way), [i.flip(0) if reverse else i for i in batches[: DRIFT["steps"]]]
        gradient = loop.gradients(taken[0])
        losses, weights = zip(*((loop.step(index), loop.weights()) for index in taken), strict=True)
        plain = plain or [gradient, torch.cat([value.flatten() for value in start]), *weights]
        yield {
            "kind": "drift",
            "way": "other order of texts" if reverse else way.name,
            "seed": seed,
            "gradient": _relative(gradient, plain[0], plain[0]),
            "losses": [*losses],
            "weights": [_relative(one, other, other - plain[1]) for one, other in zip(weights, plain[2:], strict=True)],
        }


def _texts(seed: int, of: Mapping[str, int]) -> Tensor:
    """The beginnings of texts of the course, shape (texts, length)."""
    return COURSE.texts("tales", seed)["train"][: of["texts"], : of["length"]]


def _relative(one: Tensor, other: Tensor, unit: Tensor) -> float:
    """How far apart two vectors are, in lengths of a third; 0 where they are the same bit by bit."""
    apart = (one - other).norm().item()
    return apart / unit.norm().item() if apart else 0.0


@functools.cache
def _models() -> dict[int, PeftModel]:
    """The model with adapters on each number of last blocks that is wanted."""
    return {n: late_stage_lora(load_model(device="cpu")[0], n, RANK) for n in sorted({way.blocks for way in WAYS})}


def step_times(seed: int) -> Iterator[Row]:
    """Time one step in each way, on one thread, in an order that is turned round with every other seed."""
    texts, threads = _texts(seed, TIMED), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for way in WAYS if seed % 2 == 0 else reversed(WAYS):
            model = _models()[way.blocks]
            if not way.trainer:  # on a few tokens first: the first step of a process prepares things
                loop_seconds(Loop(model, texts[:1, :16], way))
            seconds = trainer_seconds(model, texts) if way.trainer else loop_seconds(Loop(model, texts, way))
            yield {"kind": "time", "way": way.name, "seed": seed, "seconds": round(seconds, 4)}
    finally:
        torch.set_num_threads(threads)


def loop_seconds(loop: Loop) -> float:
    """CPU seconds of one step on all texts."""
    start = time.process_time()
    loop.step(torch.arange(len(loop.texts)))
    return time.process_time() - start


def tasks() -> list[Task]:
    """What is recorded: steps that are timed, and runs that are compared."""
    common = {"model": EMBEDDED, "rank": RANK, "rate": RATE, "warmup": WARMUP, "clip": CLIP, "trained_on": "tales"}
    timed = {**common, **TIMED, "kind": "time", "threads": 1, "ways": [asdict(way) for way in WAYS]}
    compared = {**common, **DRIFT, "kind": "drift", "ways": [asdict(way) for way in LOOPS]}
    return [
        *(Task(f"times, seed {n}", {**timed, "seed": n}, partial(step_times, n)) for n in TIMED_SEEDS),
        *(Task(f"drift, seed {n}", {**compared, "seed": n}, partial(drift, n)) for n in DRIFT_SEEDS),
    ]
