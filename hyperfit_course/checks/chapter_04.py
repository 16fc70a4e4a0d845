"""Checks of the exercises on chapter 04: is it a fixed preference for some tokens?"""

from __future__ import annotations

import torch
from torch import Tensor

from hyperfit_course.checks.core import Answer, exercise, need, show


@exercise(
    points=2,
    notice="How many tokens have rank 1 at a position when two logits are equal? Does greedy decoding agree?",
)
def token_ranks(answer: Answer) -> None:
    """Whether a function gives the rank of one token a position among all tokens, 1 being the most probable."""
    logits, tokens = torch.tensor([[-3.0, 0.5, 3.0, -2.0, 1.0, 2.0, -1.0]]), torch.tensor([4])
    found = _ranks(answer, logits, tokens).item()
    given = "the logits -3, 0.5, 3, -2, 1, 2, -1 and token 4"
    need(found != 2, f"For {given} it gives rank 2: two tokens have larger logits. Ranks begin at 1, not at 0.")
    need(found != 4, f"For {given} it gives rank 4: the token itself is counted twice, or does not come before itself.")
    need(found != 5, f"For {given} it gives rank 5: that counts from the least probable token.")
    need(
        found not in (6, 7),
        f"For {given} it gives {found}: `argsort` lists the ids in their order. The rank of a token is its *place* in "
        "that list, and not what stands there.",
    )
    need(found == 3, f"For {given} it gives rank {found}, and exactly two tokens have larger logits.")
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 40, generator=generator)
    order = logits.argsort(dim=-1, descending=True)
    for rank in (1, 5, 40):
        ranks = _ranks(answer, logits, order[..., rank - 1])
        need(
            bool((ranks == rank).all()),
            f"For logits of shape (3, 5, 40) and the tokens that stand {rank}. at each position it does not give "
            f"{rank} everywhere: does every position use its own token and its own order?",
        )
    tied = torch.tensor([[1.0, 3.0, 3.0, 3.0, 0.0]])
    three = [_ranks(answer, tied, torch.tensor([token])).item() for token in (1, 2, 3)]
    need(
        three != [3, 3, 3] and three != [2, 2, 2],
        f"Three tokens have the same largest logit, and all get rank {three[0]}: then no token has rank 1.",
    )
    need(
        three != [1, 1, 1],
        "Three tokens have the same largest logit, and all get rank 1. Greedy decoding takes only the one with the "
        "smallest id: of equal logits, that one comes first.",
    )
    need(
        three == [1, 2, 3],
        f"For the logits {tied[0].tolist()} tokens 1, 2 and 3 get the ranks {three}: of equal logits the smaller id "
        "comes first.",
    )


def _ranks(answer: Answer, logits: Tensor, tokens: Tensor) -> Tensor:
    return answer.tensor(logits, tokens, shape=tuple(tokens.shape), dtype=torch.int64)


@exercise(
    points=1,
    notice="The notes on the paper do not agree on which of the two shares it reports. By what factor do yours differ?",
)
def deep_tail_share(answer: Answer) -> None:
    """Whether a function gives the share of choices from below a rank, of all choices and of the overriding ones."""
    ranks = torch.tensor([1, 1, 1, 1, 2, 3, 10, 11, 500, 1, 1, 1])

    def shares(ranks: Tensor, threshold: int) -> tuple[float, float]:
        return answer.pair(ranks, threshold, wanted="(share of all, share of overrides)")

    of_all, of_overrides = shares(ranks, 10)
    need(
        abs(of_all - 3 / 12) > 1e-6,
        f"For {show(ranks)} and rank 10 it gives {of_all:.3f} of all: rank 10 itself is not beyond rank 10.",
    )
    need(abs(of_all - 2) > 1e-6, "The first number is a count: a share of all choices is wanted.")
    need(
        abs(of_all - 2 / 12) < 1e-6,
        f"For {show(ranks)} and rank 10, two of twelve choices lie beyond it, and it gives {of_all:.3f} of all.",
    )
    need(
        abs(of_overrides - 2 / 12) > 1e-6,
        "Both shares are the same: the second one is a share of the *overriding* choices only, those that are not the "
        "base model's first.",
    )
    need(
        abs(of_overrides - 2 / 7) > 1e-6,
        "The second number is a share of the choices that *are* the base model's first: those that are not are wanted.",
    )
    need(
        abs(of_overrides - 5 / 12) > 1e-6,
        "The second number is the share of overriding choices. Of these, the share beyond the rank is wanted.",
    )
    need(
        abs(of_overrides - 2 / 5) < 1e-6,
        f"For {show(ranks)} five choices are not the base model's first, two of them beyond rank 10. It gives "
        f"{of_overrides:.3f} for the second number.",
    )
    shaped = shares(ranks.view(2, 6), 2)
    need(
        all(abs(one - other) < 1e-6 for one, other in zip(shaped, (4 / 12, 4 / 5), strict=True)),
        f"For the same ranks in the shape (2, 6) and rank 2 it gives {shaped}, and 1/3 and 0.8 are wanted: are the "
        "shape and the threshold used?",
    )
    agreed = shares(torch.ones(6, dtype=torch.long), 10)
    need(
        agreed == (0, 0),
        f"Where every choice is the base model's first, there is nothing to share: 0 and 0 are wanted, not {agreed}.",
    )


@exercise(
    points=3,
    notice="Set all offsets to the same number. What does StaticBias of the chapter change then, and what does greedy "
    "decoding do?",
)
def static_bias(answer: Answer) -> None:
    """Whether a function gives the mean change of the logit of the tokens that gained most ranks, and 0 elsewhere."""
    generator = torch.Generator().manual_seed(3)
    before = torch.randn(60, 12, generator=generator)
    after = before + 0.1 * torch.randn(60, 12, generator=generator)
    # Token 3 gains ranks everywhere. Token 5 has a large logit already: its rise gains no rank. Token 7 falls.
    before[:, 5] += 20
    after[:, 5] = before[:, 5] + 30
    after[:, 3] += 4
    after[:, 7] -= 9
    after[:30, 9] += 2
    after[59, 9] -= 100  # one position that decides the mean logit, and not the mean rank
    before[:, 11] += 6
    after[:, 11] = before[:, 11] - 3
    before[0, 11], after[0, 11] = -50, 100  # a leap at one position, and a fall at all others
    change = (after - before).mean(dim=0)
    found = answer.tensor(before, after, 2, shape=(12,))
    chosen = found.nonzero().flatten().tolist()
    need(
        len(chosen) != 12,
        "All tokens have an offset: only the k tokens that gained most ranks get one, and the others 0.",
    )
    need(
        5 not in chosen,
        "Token 5 has an offset. Its logit rose most, but it was the first token already and gained no rank.",
    )
    need(
        7 not in chosen,
        "Token 7 has an offset, and it *lost* ranks. Rank 1 is the best one: what is the sign of a gain?",
    )
    need(
        11 not in chosen,
        "Token 11 has an offset. It leaps ahead at a single position and falls behind at all others: the gain is the "
        "mean over the positions.",
    )
    lists = [logits.argsort(dim=-1, descending=True) for logits in (before, after)]
    need(
        chosen != sorted((lists[0] - lists[1]).float().mean(dim=0).topk(2).indices.tolist()),
        f"For k = 2 the tokens {chosen} have an offset: `argsort` lists the ids in their order. The rank of a token is "
        "its *place* in that list.",
    )
    need(
        chosen == [3, 9],
        f"For k = 2 the tokens {chosen} have an offset, and 3 and 9 gained most ranks on average.",
    )
    need(
        not torch.allclose(found[chosen], torch.ones(2)),
        "The offsets are all 1: the mean change of each token's logit is wanted.",
    )
    ratio = (found[chosen] / change[chosen]).mean().item()
    need(
        abs(ratio - 60) > 1,
        "The offsets are sums over the positions: means are wanted.",
    )
    need(
        not torch.allclose(found[chosen], (change - change.mean())[chosen], atol=1e-4),
        "The offsets are changes of centred logits: this exercise takes the logits as they are.",
    )
    need(
        torch.allclose(found[chosen], change[chosen], atol=1e-4),
        f"The offsets of tokens 3 and 9 are {[round(x, 3) for x in found[chosen].tolist()]}, and the mean changes of "
        f"their logits over all positions are {[round(x, 3) for x in change[chosen].tolist()]}.",
    )
