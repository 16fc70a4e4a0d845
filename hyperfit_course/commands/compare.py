"""``hyperfit compare``: two models after the same prompts, or two studies claim by claim."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hyperfit_course.anatomy import CausalLM
from hyperfit_course.commands.options import Comparing
from hyperfit_course.commands.trained import load_trained
from hyperfit_course.corpora import load_corpus, make_texts
from hyperfit_course.decoding import PROMPT_TOKENS, continue_prompts
from hyperfit_course.logits import at_positions
from hyperfit_course.metrics import bootstrap_interval
from hyperfit_course.reweighting import top1_agreement
from hyperfit_course.study.config import StudyError
from hyperfit_course.study.controls import kl_of_logits
from hyperfit_course.study.report import is_hyperfitted
from hyperfit_course.study.selfchecks import check_causal, check_subject
from hyperfit_course.study.untrusted import printable_values
from hyperfit_course.study.writing import repetition_row
from hyperfit_course.temperature import predictive_entropy


def compare(options: Comparing) -> int:
    """Print the comparison.

    Returns:
        0.

    Raises:
        StudyError: one is a study and the other a model, their tokenizers differ, or there is nothing to compare.
    """
    studies = [_study_in(name) for name in (options.a, options.b)]
    if any(studies) and not all(studies):
        study, other = (options.a, options.b) if studies[0] else (options.b, options.a)
        raise StudyError(
            f"{study} is the folder of a study, and {other} is none (no study.json): name two studies, or two models."
        )
    table = claim_table(*studies) if all(studies) else _models(options)
    if table.empty:
        raise StudyError("Neither study has measured a statement: run them with more parts, or name others.")
    if all(studies):
        print(*_about(studies, (options.a, options.b)), "", sep="\n")
    with pd.option_context("display.max_colwidth", 60, "display.width", 200):
        print(table.to_string())
    return 0


def _study_in(name: str) -> dict[str, Any]:
    path = Path(name).expanduser() / "study.json"
    if not path.is_file():
        return {}
    try:
        data: dict[str, Any] = printable_values(json.loads(path.read_text(encoding="utf-8")))
        claim_table(data, data)
        list(_about([data, data], ("", "")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StudyError(f"{path} is no whole study: run 'hyperfit study --from {name}', or name another.") from error
    return data


def _about(studies: Sequence[dict[str, Any]], names: Sequence[str]) -> Iterator[str]:
    """What has to be known of two studies before their numbers are compared: one line each."""
    for letter, data, name in zip("AB", studies, names, strict=True):
        done = sum(part["state"] == "finished" for part in data["parts"])
        yield f"{letter}: {name}, a study of {data['model']['name']}, {done} of {len(data['parts'])} parts finished"
        for row in data["rows"]:
            if row["part"] == "training" and not is_hyperfitted(row):
                arm = f"{row['arm']}, seed {row['seed']}"
                yield f"   not hyperfitted: {arm} ended at a training loss of {row['train_loss']:.2f} nats"
    settings = [data["identity"]["config"] for data in studies]
    for name in dict.fromkeys([*settings[0], *settings[1]]):
        ours, theirs = (each.get(name) for each in settings)
        if ours != theirs:
            yield f"They differ in --{name}: {_as_option(ours)} and {_as_option(theirs)}"


def _as_option(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def claim_table(a: dict[str, Any], b: dict[str, Any]) -> pd.DataFrame:
    """What two studies say of each statement that one of them measured."""
    columns = {}
    for letter, data in zip("AB", (a, b), strict=True):
        name = f"{letter}: {data['model']['name']}"
        columns[name] = {c["claim"]: f"{c['measured']} {c['verdict']}".strip() for c in data["claims"] if c["values"]}
    return pd.DataFrame(columns).fillna("not measured")


def _models(options: Comparing) -> pd.DataFrame:
    if options.prompts < 2:
        raise StudyError(f"--prompts has to be at least 2 for an interval, not {options.prompts}.")
    (a, tokenizer, _), (b, other, _) = load_trained(options.a), load_trained(options.b)
    if tokenizer.get_vocab() != other.get_vocab():
        raise StudyError("The two models have different tokenizers: compare a model with a tuned copy of itself.")
    texts = make_texts(load_corpus(options.corpus), tokenizer, 1, 1, options.prompts)["prompts"]
    columns, ttr = {}, []
    for name, model in (("A", a), ("B", b)):
        check_subject(model, tokenizer, texts)
        check_causal(model, texts[:1])
        row = repetition_row(continue_prompts(model, texts[:, :PROMPT_TOKENS], progress=name))
        ttr.append(row["ttr_of_prompts"])
        columns[name] = {
            "type-token ratio of greedy text": f"{row['ttr']:.3f} [{row['ttr_low']:.3f}, {row['ttr_high']:.3f}]",
            "bigram repetition": f"{row['bigram_repetition']:.3f}",
            "entropy on held-out texts (nats)": f"{at_positions(predictive_entropy, model, texts=texts).mean():.3f}",
        }
    difference = bootstrap_interval([y - x for x, y in zip(*ttr, strict=True)])
    agreement, divergence = _between(a, b, texts)
    columns["B against A"] = {
        "type-token ratio of greedy text": f"B minus A {difference}",
        "same first choice (share of positions)": f"{agreement:.3f}",
        "divergence of B from A (nats)": f"{divergence:.3f}",
    }
    return pd.DataFrame(columns).fillna("")


def _between(a: CausalLM, b: CausalLM, texts: Any) -> tuple[float, float]:
    same = at_positions(lambda x, y: top1_agreement(x, y).float(), a, b, texts=texts).mean().item()
    return same, at_positions(kl_of_logits, a, b, texts=texts).mean().item()
