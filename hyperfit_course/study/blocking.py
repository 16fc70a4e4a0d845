"""What is left when a model may not recite? A blocker of citations while it writes, and recitation counted in words.

Carlsson et al. (2025) forbid a hyperfitted model to cite its training text: after five generated tokens that stand
there in a row, the token that follows them there is forbidden, once the current word is complete.
"""

from __future__ import annotations

import functools
import math
import re
from collections import defaultdict
from collections.abc import Sequence

from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from hyperfit_course.decoding import PROMPT_TOKENS
from hyperfit_course.study.recitation import SPAN, Recited, recited


class CitationBlocker(LogitsProcessor):
    """Forbids what would continue a citation; for :func:`~hyperfit_course.decoding.continue_prompts`.

    The prompt is not generated, so its tokens start no citation. Inside a word nothing is forbidden: a token goes on
    with a word if it begins with a letter or digit, and the token before ends with one.

    Args:
        source: the training text, token ids, shape (n, length). No citation goes over the end of a row.
        tokenizer: of the model, which tells where words end.
        span: generated tokens that have to stand in the source.
        prompt_tokens: length of the prompts.

    Raises:
        ValueError: the rows of the source are too short to be cited.
    """

    def __init__(
        self,
        source: Tensor,
        tokenizer: PreTrainedTokenizerBase,
        span: int = SPAN,
        prompt_tokens: int = PROMPT_TOKENS,
    ) -> None:
        if source.ndim != 2 or span < 1 or source.shape[1] <= span:
            raise ValueError(
                f"Training text of shape {tuple(source.shape)} has no token after {span} others: give rows of at least "
                f"{span + 1} tokens, or block shorter citations."
            )
        self.span, self.prompt_tokens = span, prompt_tokens
        self.forbidden: dict[tuple[int, ...], set[int]] = defaultdict(set)
        inside = functools.cache(functools.partial(_inside_word, tokenizer))
        for row in source.tolist():
            for start in range(len(row) - span):
                *cited, following = row[start : start + span + 1]
                if not inside(cited[-1], following):
                    self.forbidden[tuple(cited)].add(following)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        written = input_ids[:, self.prompt_tokens :]
        if written.shape[1] < self.span:
            return scores
        scores = scores.clone()
        for row, cited in enumerate(written[:, -self.span :].tolist()):
            scores[row, list(self.forbidden.get(tuple(cited), ()))] = -math.inf
        return scores


def _inside_word(tokenizer: PreTrainedTokenizerBase, before: int, after: int) -> bool:
    """Whether a token goes on with the word that the one before it begins."""
    first = str(tokenizer.decode([before]))
    rest = str(tokenizer.decode([before, after]))[len(first) :]
    return first[-1:].isalnum() and rest[:1].isalnum()


def recited_words(texts: Sequence[str], source: Sequence[str], span: int = SPAN) -> list[Recited]:
    """How many words of each text stand in runs of at least ``span`` words that a source has, and its longest run.

    A word is a run of letters and digits, with apostrophes inside; case and punctuation do not count. So a citation is
    found that begins in the middle of a sentence, or that is cut into other tokens. A text without words recites none.

    Args:
        texts: what was written.
        source: such as the training texts. No run goes over the end of one.
    """
    numbers: dict[str, int] = {}

    def ids(text: str) -> list[int]:
        return [numbers.setdefault(word, len(numbers)) for word in re.findall(r"\w+(?:['’]\w+)*", text.lower())]

    rows = [ids(text) for text in source]
    return [recited(words, rows, span) if words else Recited(0.0, 0) for words in map(ids, texts)]
