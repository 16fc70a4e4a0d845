"""About the size of the papers: 2,000 texts of 256 tokens, up to 260 epochs, three seeds. It takes a GPU.

Both papers train on 2,000 texts. 256 tokens are those of Carlsson et al. (2025), and 260 epochs those of the ICML
paper, from notes; how long its texts are is not known to us. Three seeds are ours.

Full fine-tuning and Late-Stage LoRA (adapters on the last five blocks) of the course's model, until the mean loss of
an epoch is nearly zero. Learning rates, batch size, adapter rank and the loss at which training stops are ours: the
paper's are not known. Each model continues 30 prompts of 32 tokens greedily.

All articles of `wiki` together fill about 2,100 texts of this size, so none can be held out whole: what is left over
are other passages of the same articles. The prompts are therefore taken from them and, a second time, from the
held-out tales, which nothing here is trained on.

Writes full_protocol.json, with the history of each run. Interrupted, it goes on from the last finished epoch.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hyperfit_course.anatomy import CausalLM
from hyperfit_course.corpora import SPLITS, load_corpus, make_texts
from hyperfit_course.decoding import PROMPT_TOKENS, continue_prompts
from hyperfit_course.late_stage import late_stage_lora
from hyperfit_course.models import EMBEDDED, load_model
from hyperfit_course.study.measures import shape_row
from hyperfit_course.study.recording import Row, Task, record
from hyperfit_course.study.writing import repetition_row
from hyperfit_course.training import HyperfitConfig, hyperfit, training_precision

RESULTS = Path(__file__).resolve().parent.parent / "results"
RANK = 16
LEARNING_RATES = {"full": 2e-5, "last 5": 1e-3}
"""Of each way to train."""
PROMPTS = 30


@dataclass(frozen=True)
class Protocol:
    """How large the runs are."""

    corpus: str = "wiki"
    texts: int = 2000
    held_out: int = 64
    length: int = 256
    epochs: int = 260
    target_loss: float = 0.01
    seeds: int = 3

    def config(self, way: str, seed: int) -> HyperfitConfig:
        """The settings of one run."""
        return HyperfitConfig(
            epochs=self.epochs,
            learning_rate=LEARNING_RATES[way],
            batch_size=8,
            target_loss=self.target_loss,
            evaluate_every=20,
            seed=seed,
        )


def protocol_splits(protocol: Protocol, tokenizer: PreTrainedTokenizerBase) -> dict[str, Tensor]:
    """The same texts for every run: to train on, and others, of which the first ones are prompts, too."""
    corpus = load_corpus(protocol.corpus)
    articles = [text for split in SPLITS for text in corpus[split]]
    wanted = protocol.texts + protocol.held_out
    rows = make_texts(
        dict.fromkeys(SPLITS, articles), tokenizer, wanted, n_validation=1, n_prompts=1, length=protocol.length
    )["train"]
    train, held_out = rows.split([protocol.texts, protocol.held_out])
    return {"train": train, "validation": held_out, "prompts": held_out[:PROMPTS]}


def measure_run(way: str | None, seed: int, protocol: Protocol) -> Iterator[Row]:
    """Train one model (``None``: the base model, not trained) and measure it with both kinds of prompts."""
    model: CausalLM
    model, tokenizer = load_model()
    splits = protocol_splits(protocol, tokenizer)
    trained: Row = {}
    if way == "last 5":
        model = late_stage_lora(model, 5, RANK, seed=seed)
    if way:
        history = hyperfit(model, splits, protocol.config(way, seed))
        trained = {
            "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "minutes": round(float(history["seconds"].sum()) / 60, 2),
            "precision": training_precision(model.device),
            "history": {name: values.dropna().round(5).tolist() for name, values in history.items()},
            "evaluated_epochs": history.dropna(subset=["validation_loss"])["epoch"].tolist(),
        }
    tales = make_texts(load_corpus("tales"), tokenizer, n_prompts=PROMPTS)["prompts"]
    for corpus, texts in ((protocol.corpus, splits["prompts"]), ("tales", tales)):
        greedy = continue_prompts(model, texts[:, :PROMPT_TOKENS], progress=f"{way or 'base'}, prompts from {corpus}")
        yield {
            "way": way or "base",
            "seed": seed,
            "prompts": corpus,
            **repetition_row(greedy),
            **shape_row(model, texts),
            **trained,
        }


def tasks(protocol: Protocol) -> list[Task]:
    """The base model once, and each way with each seed."""
    runs: list[tuple[str | None, int]] = [(None, 0)]
    runs += [(way, seed) for seed in range(protocol.seeds) for way in LEARNING_RATES]
    return [
        Task(
            f"{way or 'base'}, seed {seed}",
            {
                "model": EMBEDDED,
                "way": way,
                "protocol": asdict(protocol),
                "config": asdict(protocol.config(way, seed)) if way else None,
                "rank": RANK if way == "last 5" else None,
            },
            functools.partial(measure_run, way, seed, protocol),
        )
        for way, seed in runs
    ]


def main(arguments: list[str] | None = None) -> None:
    """Read the size of the runs from the command line, and record them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in fields(Protocol):
        option = "--" + field.name.replace("_", "-")
        parser.add_argument(option, type=type(field.default), default=field.default, help=f"default: {field.default}")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of full_protocol.json (default: results/)")
    given = vars(parser.parse_args(arguments))
    out = given.pop("out")
    protocol = Protocol(**given)
    if protocol != Protocol() and out == RESULTS:
        parser.error("runs of another size would replace those in results/: name another folder with --out FOLDER")
    out.mkdir(parents=True, exist_ok=True)
    record("full_protocol", tasks(protocol), out)


if __name__ == "__main__":
    main()
