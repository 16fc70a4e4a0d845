"""Fixtures: a cache folder of its own for every test, and a model small enough to train in a second."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import notebooks
import pytest
import torch
from accelerate.state import AcceleratorState
from notebook_pipeline.project import PipelineError
from pdf import chromium
from playwright.sync_api import Browser, Page
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYPERFIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HYPERFIT_CLAIMS", raising=False)
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def _any_precision() -> None:
    """Accelerate keeps the precision of a process's first training; the tests of one process want several."""
    AcceleratorState._reset_state()


@pytest.fixture
def model() -> PreTrainedModel:
    return tiny_model()


def tiny_model(seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=256,
        eos_token_id=256,
        pad_token_id=256,
    )
    return LlamaForCausalLM(config).eval()


def _family(config: type, **settings: Any) -> Callable[..., PreTrainedModel]:
    """A function that makes a random model of four blocks, the same for the same seed."""

    def make(blocks: int = 4, seed: int = 0) -> PreTrainedModel:
        torch.manual_seed(seed)
        common = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": blocks, "num_attention_heads": 4}
        return AutoModelForCausalLM.from_config(config(**common, max_position_embeddings=64, **settings)).eval()

    return make


_GATED = {"intermediate_size": 48, "num_key_value_heads": 2}
FAMILIES = {
    "llama": _family(LlamaConfig, **_GATED),
    "qwen2": _family(Qwen2Config, **_GATED),
    "gemma": _family(Gemma2Config, **_GATED, head_dim=8, final_logit_softcapping=30.0, sliding_window=8),
    "gpt2": _family(GPT2Config),
    "neox": _family(GPTNeoXConfig, intermediate_size=48),
    "opt": _family(OPTConfig, ffn_dim=48, word_embed_proj_dim=32),
}
"""Tiny random models, one a family of layouts."""


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    """One token a byte, and an end token: any text can be tokenised, and token counts are byte counts."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>", pad_token="<end>")


@pytest.fixture(scope="session")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built pages; a warning fails the build."""
    folder = tmp_path_factory.mktemp("book")
    arguments = [
        "--root",
        str(ROOT),
        "seed",
        "--from",
        "committed",
        "--build",
        str(folder / "_build"),
    ]
    assert notebooks.main(arguments) == 0
    program = str(Path(sys.executable).with_name("jupyter-book"))
    command = [program, "build", str(ROOT), "--path-output", str(folder), "-W", "--keep-going", "-q"]
    build = subprocess.run(command, capture_output=True, text=True)
    assert build.returncode == 0, build.stdout + build.stderr
    return folder / "_build" / "html"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    try:
        with chromium() as program:
            yield program
    except PipelineError as error:
        pytest.skip(str(error))


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of a browser that reaches no network."""
    context = browser.new_context(offline=True, viewport={"width": 1300, "height": 900})
    yield context.new_page()
    context.close()
