"""What several processes train, in the test of them: ``accelerate launch`` starts this file, the test imports it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from hyperfit_course import evaluation, training
from hyperfit_course.anatomy import CausalLM
from hyperfit_course.checkpoints import trained_weights
from hyperfit_course.late_stage import late_stage_lora
from hyperfit_course.processes import divides_models, is_main
from hyperfit_course.training import HyperfitConfig, hyperfit

# Batches of 3, 3 and 1 of 7 texts: two processes get 2 and 1 of them, and at the last step 1 and none.
CONFIG = HyperfitConfig(
    epochs=3, learning_rate=5e-3, batch_size=3, warmup_steps=2, evaluate_every=2, evaluation_prompts=1
)
STEPS = 3  #: An epoch.


def untrained(kind: str) -> CausalLM:
    """A tiny model to train all weights of ("full"), or with adapters on the last of its three blocks ("late")."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=64, max_position_embeddings=128, tie_word_embeddings=True, **sizes)
    model = LlamaForCausalLM(config).eval()
    return model if kind == "full" else late_stage_lora(model, 1, rank=2)


def texts() -> dict[str, Tensor]:
    """Random ones, since nothing is to be learned from them."""
    ids = torch.randint(0, 64, (12, 32), generator=torch.Generator().manual_seed(1))
    return {"train": ids[:7], "validation": ids[7:9], "prompts": ids[9:]}


def run(kind: str) -> tuple[CausalLM, pd.DataFrame]:
    """Train, or load what was trained: the model and the history."""
    evaluation.NEW_TOKENS = 4
    model = untrained(kind)
    return model, hyperfit(model, texts(), CONFIG)


def kill_main_process_at(step: int) -> None:
    """As a machine that loses its power would."""
    original, count = training.next_token_loss, 0

    def loss(*arguments: Any) -> Tensor:
        nonlocal count
        count += 1
        if count == step and os.environ["RANK"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)

    training.next_token_loss = loss  # type: ignore[assignment]


if __name__ == "__main__":
    out, killed_at = Path(sys.argv[1]), int(sys.argv[2])
    for kind in ("late", "full"):
        if kind == "full" and killed_at:
            kill_main_process_at(killed_at)
        model, history = run(kind)
        save_file(trained_weights(model), out / f"{kind}-{os.environ['RANK']}.safetensors")
        history.to_json(out / f"{kind}-{os.environ['RANK']}.json")
        if is_main():
            model.save_pretrained(str(out / kind))
            print(f"Models are divided: {divides_models()}")
