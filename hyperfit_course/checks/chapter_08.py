"""Checks of the exercises on chapter 08: hyperfitting, or any fine-tuning?"""

from __future__ import annotations

import torch
from torch import Tensor

from hyperfit_course.checks.core import Answer, exercise, need, show, spot


def _numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@exercise(
    points=2,
    notice="Add 10 to all logits first: the probabilities stay, and what the penalty does changes. Where is 0 now?",
)
def penalised(answer: Answer) -> None:
    """Whether a function applies a repetition penalty to the logits of the tokens that were there."""
    logits, tokens = torch.tensor([6.0, -2.0, 3.0, -1.0]), [0, 1]
    found = answer.tensor(logits, tokens, 2.0, shape=(4,))
    need(
        found[1].item() != -1.0,
        "The logit -2 became -1, so the token became *more* likely: below 0 a penalty has to multiply.",
    )
    need(
        not torch.equal(found[:2], torch.tensor([12.0, -4.0])),
        "The logit 6 became 12, so the token became *more* likely: above 0 a penalty has to divide.",
    )
    need(
        not torch.equal(found[:2], torch.tensor([3.0, -4.0])) or torch.equal(found[2:], logits[2:]),
        "Tokens 2 and 3 were not there before, and their logits changed: only what was there is punished.",
    )
    need(
        torch.allclose(found, torch.tensor([3.0, -4.0, 3.0, -1.0])),
        f"For {show(logits, tokens, 2.0)} it gives {show(found)}, and 3, -4, 3, -1 is wanted.",
    )
    again = answer.tensor(logits, [0, 1, 0, 0], 2.0, shape=(4,))
    need(
        torch.allclose(again, found),
        "When token 0 stands there three times instead of once, the result changes. Each token is punished once.",
    )
    logits = _numbers(40, seed=1)
    tokens = [7, 31, 7, 0, 12, 12, 39]
    found = answer.tensor(logits, tokens, 1.2, shape=(40,))
    wanted = logits.clone()
    for token in set(tokens):
        wanted[token] = logits[token] / 1.2 if logits[token] > 0 else logits[token] * 1.2
    need(
        torch.allclose(found, wanted, atol=1e-6),
        "For 40 random logits and the penalty 1.2 some logits are not as wanted. Is the penalty that is given used, "
        "and does each token that was there count, the first and the last as well?",
    )


@exercise(
    points=2,
    notice="How many tokens does top-p keep where a model is sure, and how many where it hesitates?",
)
def kept_by_top_p(answer: Answer) -> None:
    """Whether a function tells which tokens top-p sampling keeps."""
    p = torch.tensor([0.0625, 0.5, 0.125, 0.3125])
    found = answer.tensor(p, 0.75, shape=(4,), dtype=torch.bool)
    need(bool(found.any()), "It keeps no token at all, so nothing could be drawn.")
    need(
        found.tolist() != [False, True, False, False],
        f"For {show(p, 0.75)} it keeps one token, with 0.5. Together the kept ones have to reach 0.75: the token that "
        "goes over the border is kept.",
    )
    need(
        found.tolist() != [True, True, False, False],
        f"For {show(p, 0.75)} it keeps the first two of the *list*: the answers stand in the order of the "
        "probabilities, and the order of the vocabulary is wanted.",
    )
    need(
        found.tolist() != [True, False, True, False],
        f"For {show(p, 0.75)} it keeps the two least probable tokens: is the list sorted with the largest first?",
    )
    need(
        found.tolist() == [False, True, False, True],
        f"For {show(p, 0.75)} it gives {found.tolist()}: 0.5 and 0.3125 reach 0.75, and no smaller number of tokens "
        "does.",
    )
    sure = answer.tensor(torch.tensor([0.0625, 0.9375]), 0.5, shape=(2,), dtype=torch.bool)
    need(
        sure.tolist() == [False, True],
        "When one token has 0.9375 and top-p is 0.5, this token is kept, and only this one.",
    )
    exact = answer.tensor(torch.tensor([0.25, 0.5, 0.1875, 0.0625]), 0.75, shape=(4,), dtype=torch.bool)
    need(
        exact.tolist() == [True, True, False, False],
        "0.5 and 0.25 are exactly 0.75. That is *at least* 0.75, so a third token is not kept.",
    )
    p = _numbers(50, seed=2).mul(2).softmax(dim=0)
    for top_p in (0.3, 0.9):
        kept = answer.tensor(p, top_p, shape=(50,), dtype=torch.bool)
        need(
            bool(p[kept].sum() >= top_p - 1e-6) and bool(p[kept].sum() - p[kept].min() < top_p),
            f"Of 50 tokens with top-p {top_p} it keeps {int(kept.sum())}, with {p[kept].sum():.3f} together: as few "
            "as possible that reach it are wanted.",
        )
        need(
            bool(p[kept].min() > p[~kept].max()),
            f"Of 50 tokens with top-p {top_p} it leaves out one that is more probable than one that it keeps.",
        )


@exercise(
    points=2,
    notice="If all numbers are above 0, does the control give nothing of the gain? Give two values that say no.",
)
def missing_to_half(answer: Answer) -> None:
    """Whether a function gives half of the gain minus the gain of a control, for each seed that both have."""
    given = (0.25, {0: 0.875}, {0: 0.375})
    found = _listed(answer, *given, length=1)[0]
    spot(
        found,
        show(*given),
        {
            0.0625: "that is half of the hyperfitted TTR minus that of the control. Is the base model taken off both?",
            0.5: "the whole gain is compared, and half of it is wanted.",
            -0.1875: "the sign is turned around. It is positive if the control has less than half.",
            -0.0625: "the base model is taken off the hyperfitted TTR, and not off that of the control.",
            0.2: "that is the share of the gain. A difference in TTR is wanted.",
        },
    )
    need(abs(found - 0.1875) < 1e-9, f"For {show(*given)} it gives {found:.4g}, and 0.3125 - 0.125 is wanted.")
    hyperfitted, control = {3: 0.5, 1: 0.75, 0: 1.0, 7: 0.875}, {7: 0.5, 5: 0.25, 1: 0.625, 3: 0.25}
    given = (0.25, hyperfitted, control)
    found = _listed(answer, *given, length=3)
    wanted = [(hyperfitted[seed] - 0.25) / 2 - (control[seed] - 0.25) for seed in (1, 3, 7)]
    need(
        sorted(found) != sorted(wanted) or found == wanted,
        f"For {show(*given)} the three numbers are right, and they stand in another order than that of the seeds.",
    )
    need(
        all(abs(one - other) < 1e-9 for one, other in zip(found, wanted, strict=True)),
        f"For {show(*given)} it gives {show(found)}, and {show(wanted)} is wanted: is each seed compared with itself?",
    )


def _listed(answer: Answer, base: float, hyperfitted: dict[int, float], control: dict[int, float], length: int) -> list:
    found = answer(base, hyperfitted, control)
    shared = sorted(hyperfitted.keys() & control.keys())
    need(isinstance(found, list), f"It returned {show(found)}: a list with one number a seed is wanted.")
    need(
        len(found) == length,
        f"The seeds {shared} are in both dictionaries, and it gives {len(found)} numbers: one for each seed that both "
        "have.",
    )
    return found


@exercise(
    points=1,
    notice="Their mean is the effect of the chapter. For that mean it would not matter whether the base model is taken "
    "off the columns or the rows. Why?",
)
def others_minus_half(answer: Answer) -> None:
    """Whether a function compares, for each corpus of prompts, the gains of other models with half of the own one."""
    ttr = torch.tensor([[0.5, 0.625, 0.25], [0.625, 0.875, 0.375], [0.5, 0.5, 0.4375]])
    base = torch.tensor([0.25, 0.375, 0.125])
    found = answer.tensor(ttr, base, shape=(3,))
    gains, on_rows = ttr - base, ttr - base[:, None]
    own = gains.diagonal()
    others = (gains.sum(dim=0) - own) / 2
    faults = {
        "the base model's TTR is taken off the rows. It was given for the prompts, and so for the columns.": (
            (on_rows.sum(dim=0) - own) / 2 - own / 2
        ),
        "each number is about a corpus that was *trained on*: the mean goes along the wrong axis.": (
            (gains.sum(dim=1) - own) / 2 - own / 2
        ),
        "the own corpus is among the others.": gains.mean(dim=0) - own / 2,
        "the whole gain on the own corpus is taken off, and half is wanted.": others - own,
        "the gains on other corpora are added, and their mean is wanted.": 2 * others - own / 2,
        "the base model is not taken off.": (ttr.sum(dim=0) - ttr.diagonal()) / 2 - ttr.diagonal() / 2,
        "the sign is turned around.": own / 2 - others,
    }
    for message, fault in faults.items():
        need(not torch.allclose(found, fault, atol=1e-6), f"For three corpora it gives {show(found)}: {message}")
    wanted = others - own / 2
    need(
        torch.allclose(found, wanted, atol=1e-6),
        f"For three corpora it gives {show(found)}, and {show(wanted)} is wanted.",
    )
    ttr, base = _numbers(4, 4, seed=3), _numbers(4, seed=4)
    found = answer.tensor(ttr, base, shape=(4,))
    gains = ttr - base
    own = gains.diagonal()
    wanted = (gains.sum(dim=0) - own) / 3 - own / 2
    need(
        torch.allclose(found, wanted, atol=1e-5),
        f"For four corpora it gives {show(found)}, and {show(wanted)} is wanted: is a 2 or a 3 fixed in it?",
    )
