"""What is left of a decoder when it has to learn in a minute? One small model, which the labs on architectures share.

A lab's model differs from the plain one in what its :class:`TinyConfig` says, and in nothing else. Parameters are drawn
by their names, so models of one seed have the same numbers in all that they share.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Conv:
    """A short convolution over queries, keys and values."""

    taps: int  #: Positions that it sees, the present one among them.
    rank: int = 0  #: Of the map that makes a filter from each token; 0 for a filter that is always the same.


@dataclass(frozen=True)
class TinyConfig:
    """What a tiny decoder looks like."""

    vocabulary: int
    context: int  #: Longest sequence.
    embedding: int  #: Width of the embedding and of the head.
    widths: tuple[int, ...]  #: Of each block.
    heads: int  #: In every block.
    mlp: float  #: Hidden width of an MLP, as a multiple of the width of its block.
    window: int | None = None  #: Positions that attention sees, the present one among them; all if ``None``.
    conv: Conv | None = None
    prime: bool = False  #: The last block has a second MLP before its own, with a norm before and after.

    def __post_init__(self) -> None:
        if min(self.vocabulary, self.context, self.embedding, *self.widths, self.heads) < 1 or not self.widths:
            raise ValueError("Vocabulary, context, widths and heads are at least 1, and there is at least one block.")
        for width in self.widths:
            if width % (2 * self.heads):
                raise ValueError(f"{self.heads} heads do not divide the width {width} into parts of even width.")
        if self.window is not None and self.window < 1:
            raise ValueError("A window holds at least the present position: give 1 or more, or None for all.")
        if self.conv and self.conv.taps < 1:
            raise ValueError("A convolution has at least one tap.")
        if self.conv and self.conv.rank < 0:
            raise ValueError("The rank of a dynamic convolution is at least 1; 0 makes a static one.")


def resize(states: Sequence[Tensor], width: int) -> Tensor:
    """Cut or grow the newest state to a width, without parameters (Wu et al. 2026, ``resize_if_needed`` of their code).

    Coordinates that it lacks come from the newest earlier state that has them; what none has is 0.

    Args:
        states: the newest first, each of shape (..., some width).
    """
    parts, filled = [], 0
    for state in states:
        if filled < min(state.shape[-1], width):
            parts.append(state[..., filled:width])
            filled = min(state.shape[-1], width)
    missing = states[0].new_zeros(*states[0].shape[:-1], width - filled)
    return torch.cat([*parts, missing], -1) if len(parts) > 1 or width > filled else parts[0]


def dynamic_conv(x: Tensor, filters: Tensor) -> Tensor:
    """A causal short convolution with a residual: ``y[t] = x[t] + sum over j of filters[t, j] * x[t - j]``.

    Args:
        x: shape (batch, length, channels); 0 before the first position.
        filters: shape (batch, length, taps, channels), or (taps, channels) for one filter at all positions.
    """
    shifted = [functional.pad(x, (0, 0, j, 0))[:, : x.shape[1]] for j in range(filters.shape[-2])]
    return x + (filters * torch.stack(shifted, -2)).sum(-2)


def low_rank_filters(z: Tensor, down: Tensor, up: Tensor, static: Tensor) -> Tensor:
    """Filters that a token makes (Sieberling et al. 2026): linear in the token, of low rank, plus a static part.

    Args:
        z: what they are made from, shape (batch, length, width).
        down: shape (rank, width).
        up: shape (taps * channels, rank).
        static: shape (taps, channels).

    Returns:
        Shape (batch, length, taps, channels).
    """
    return (z @ down.mT @ up.mT).unflatten(-1, static.shape) + static


class ShortConv(nn.Module):
    """A static or dynamic short convolution of one stream of an attention."""

    def __init__(self, width: int, conv: Conv) -> None:
        super().__init__()
        self.static = nn.Parameter(torch.empty(conv.taps, width))
        self.rank = conv.rank
        if conv.rank:
            self.down = nn.Parameter(torch.empty(conv.rank, width))
            self.up_zero = nn.Parameter(torch.empty(conv.taps * width, conv.rank))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return dynamic_conv(x, low_rank_filters(z, self.down, self.up_zero, self.static) if self.rank else self.static)


def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """A gated MLP. Weights are (out, in), or (batch, out, in) where each sequence has its own."""
    return (functional.silu(x @ gate.mT) * (x @ up.mT)) @ down.mT


class Mlp(nn.Module):
    """A gated MLP with its norm before, and one after it if wanted."""

    def __init__(self, width: int, hidden: int, norm_after: bool = False) -> None:
        super().__init__()
        self.before = nn.RMSNorm(width)
        self.gate, self.up = (nn.Parameter(torch.empty(hidden, width)) for _ in range(2))
        self.down = nn.Parameter(torch.empty(width, hidden))
        self.after = nn.RMSNorm(width) if norm_after else nn.Identity()

    def weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """The three matrices, in the order of :func:`swiglu`."""
        return self.gate, self.up, self.down

    def forward(self, x: Tensor, weights: tuple[Tensor, ...] | None = None) -> Tensor:
        return x + self.after(swiglu(self.before(x), *(weights or self.weights())))


class Attention(nn.Module):
    """Causal attention with rotary positions, over all positions or a window of them."""

    def __init__(self, width: int, config: TinyConfig) -> None:
        super().__init__()
        self.heads, self.window = config.heads, config.window
        self.norm = nn.RMSNorm(width)
        self.query, self.key, self.value, self.out = (nn.Parameter(torch.empty(width, width)) for _ in range(4))
        self.convs = nn.ModuleList(ShortConv(width, config.conv) for _ in range(3)) if config.conv else None
        half = width // config.heads // 2
        angles = torch.outer(torch.arange(config.context), 10_000.0 ** (-torch.arange(half) / half))
        self.turn: Tensor
        self.band: Tensor
        self.register_buffer("turn", torch.stack([angles.cos(), angles.sin()]), persistent=False)
        ago = torch.arange(config.context)[:, None] - torch.arange(config.context)
        self.register_buffer("band", (ago >= 0) & (ago < (config.window or config.context)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        z, length = self.norm(x), x.shape[1]
        streams = [z @ weight.mT for weight in (self.query, self.key, self.value)]
        if self.convs is not None:
            streams = [conv(stream, z) for conv, stream in zip(self.convs, streams, strict=True)]
        q, k, v = (stream.unflatten(-1, (self.heads, -1)).transpose(1, 2) for stream in streams)
        cosine, sine = self.turn[:, :length].to(x.dtype)
        q, k = rotate(q, cosine, sine), rotate(k, cosine, sine)
        mask = None if self.window is None else self.band[:length, :length]
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return x + mixed.transpose(1, 2).flatten(-2) @ self.out.mT


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions: turn the two halves of each head, shape (..., length, head), by the angle of the position."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], -1)


class Block(nn.Module):
    """Attention, the prime MLP if there is one, and the MLP."""

    def __init__(self, width: int, config: TinyConfig, prime: bool) -> None:
        super().__init__()
        hidden = round(config.mlp * width)
        self.attention = Attention(width, config)
        self.prime = Mlp(width, hidden, norm_after=True) if prime else None
        self.mlp = Mlp(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.feed(self.attention(x))

    def feed(self, x: Tensor, prime: tuple[Tensor, ...] | None = None) -> Tensor:
        """What comes after attention, if wanted with other weights of the prime MLP."""
        return self.mlp(self.prime(x, prime) if self.prime is not None else x)


class Tiny(nn.Module):
    """A small decoder: logits of shape (batch, length, vocabulary) for tokens of shape (batch, length).

    Args:
        seed: decides every parameter.
    """

    def __init__(self, config: TinyConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.embedding)
        count = len(config.widths)
        self.blocks = nn.ModuleList(
            Block(width, config, config.prime and number == count - 1) for number, width in enumerate(config.widths)
        )
        self.norm = nn.RMSNorm(config.widths[-1])
        self.head = nn.Parameter(torch.empty(config.vocabulary, config.embedding))
        draw(self, seed)

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.shape[1] > self.config.context:
            raise ValueError(f"A sequence of {tokens.shape[1]} tokens exceeds the context of {self.config.context}.")
        states = [self.embedding(tokens)]
        for block, width in zip(self.blocks, self.config.widths, strict=True):
            states.insert(0, block(resize(states, width)))
        return self.read(states)

    def read(self, states: Sequence[Tensor]) -> Tensor:
        """The logits of states, the newest first."""
        return resize([self.norm(states[0]), *states[1:]], self.config.embedding) @ self.head.mT


@torch.no_grad()
def draw(model: nn.Module, seed: int) -> None:
    """Draw all parameters anew, each from its own name and the seed: norms 1, matrices of variance 1 / fan-in.

    The embedding is small (0.02), so that what the first block writes counts at once.
    """
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        if parameter.ndim == 1:
            parameter.fill_(1)
        elif name.endswith("up_zero"):
            parameter.zero_()
        elif name.endswith("static"):
            reach = parameter.shape[0] ** -0.5
            parameter.copy_(torch.rand(parameter.shape, generator=generator) * 2 * reach - reach)
        else:
            spread = 0.02 if name.startswith("embedding") else parameter.shape[1] ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
