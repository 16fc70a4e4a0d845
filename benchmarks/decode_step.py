"""Where does the time of a greedy decoding step go, and what do other ways to multiply save of it?

One step is one new token for each of 30 prompts, with the keys and values of 32 tokens in the cache. All of its
matrix products have few rows and a weight that is read once. Ways to compute them, with what torch brings and
without a compiler:

- ``plain``: what ``nn.Linear`` does, which is MKL in float32 on the CPU;
- ``onednn``: oneDNN's product, on the weight as it is;
- ``onednn-packed``: the same on a copy of the weight in oneDNN's order;
- ``mkl-packed``: MKL's product on a copy in MKL's order;
- ``to-mkldnn``: the layer that :func:`torch.utils.mkldnn.to_mkldnn` makes;
- ``transposed``: the plain product on a transposed copy.

Rows: what the step is made of; for each shape of weight the rate of the plain product and how many times as fast the
other ways are; the same of a whole step; and of 32 tokens by ``continue_prompts``, with the reading of the prompts and
the packing. Every number is the best of several rounds, in which the ways take turns: ratios within one run are what
counts. On the CPU only. Writes results/benchmarks.json.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from measuring import save_benchmark
from torch import Tensor, nn
from torch.utils.mkldnn import to_mkldnn
from transformers import PreTrainedModel

from hyperfit_course.corpora import load_corpus, make_texts
from hyperfit_course.decoding import PROMPT_TOKENS, continue_prompts
from hyperfit_course.models import load_model

Product = Callable[[Tensor], Tensor]
PROMPTS = 30
NEW_TOKENS = 32


def onednn(weight: Tensor) -> Product:
    """oneDNN's product with a weight in any order."""
    return lambda inputs: torch.ops.mkldnn._linear_pointwise(inputs, weight, None, "none", [], "")


def mkl_packed(weight: Tensor) -> Product:
    """MKL's product with a packed copy. It takes rows in two dimensions only."""
    packed = torch.ops.mkl._mkl_reorder_linear_weight(weight, PROMPTS)
    return lambda inputs: torch.ops.mkl._mkl_linear(inputs.flatten(0, -2), packed, weight, None, PROMPTS)[:, None]


def by_to_mkldnn(weight: Tensor) -> Product:
    """The layer of torch.utils.mkldnn, which converts inputs and outputs."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return to_mkldnn(layer)


WAYS: dict[str, Callable[[Tensor], Product]] = {
    "plain": lambda weight: partial(nn.functional.linear, weight=weight),
    "onednn": onednn,
    "onednn-packed": lambda weight: onednn(torch.ops.mkldnn._reorder_linear_weight(weight, PROMPTS)),
    "mkl-packed": mkl_packed,
    "to-mkldnn": by_to_mkldnn,
    "transposed": lambda weight: partial(torch.matmul, other=weight.t().contiguous()),
}


def best_seconds(ways: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The best of several rounds, after one that warms up."""
    taken = defaultdict(list)
    for _ in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            taken[name].append(time.perf_counter() - start)
    return {name: min(seconds[1:]) for name, seconds in taken.items()}


def seconds_of_products(weights: list[Tensor], rounds: int) -> dict[str, float]:
    """Seconds of one product with each weight, one after the other as in a step: none is in a cache of the CPU."""
    inputs = torch.randn(PROMPTS, 1, weights[0].shape[1])
    ways = {name: [pack(weight) for weight in weights] for name, pack in WAYS.items()}
    return best_seconds({name: lambda way=way: [p(inputs) for p in way] for name, way in ways.items()}, rounds)


def seconds_of_steps(model: PreTrainedModel, prompts: Tensor, layers: list[nn.Linear], rounds: int) -> dict[str, float]:
    """Seconds of one step of the model with the products of each way."""
    products = {name: [pack(layer.weight) for layer in layers] for name, pack in WAYS.items()}
    output = model(input_ids=prompts, use_cache=True)
    cache, token = output.past_key_values, output.logits[:, -1:].argmax(-1)

    def step(name: str) -> None:
        for layer, product in zip(layers, products[name], strict=True):
            vars(layer)["forward"] = product  # not as an attribute: a module would become a part of the layer
        model(input_ids=token, past_key_values=cache, use_cache=True)
        cache.crop(-1)

    return best_seconds({name: partial(step, name) for name in WAYS}, rounds)


def seconds_of_texts(model: PreTrainedModel, prompts: Tensor, layers: list[nn.Linear], rounds: int) -> dict[str, float]:
    """Seconds of whole continuations, plain and with weights that are packed for each of them."""

    def write(name: str) -> None:
        for layer in layers:
            vars(layer)["forward"] = WAYS[name](layer.weight)
        continue_prompts(model, prompts, NEW_TOKENS)

    return best_seconds({name: partial(write, name) for name in ("plain", "onednn-packed")}, rounds)


@torch.inference_mode()
def main() -> None:
    """Time products and steps, and write the profile."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="rounds, of which the best counts (default: 20)")
    rounds = parser.parse_args().rounds
    model, tokenizer = load_model(device="cpu")
    prompts = make_texts(load_corpus("tales"), tokenizer, n_prompts=PROMPTS)["prompts"][:, :PROMPT_TOKENS]
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    shapes = defaultdict(list)
    for layer in layers:
        shapes[f"{layer.in_features} to {layer.out_features}"].append(layer.weight.detach())
    square = torch.randn(4096, 4096)
    large = 2.0 * len(square) ** 3 / best_seconds({"large": lambda: square @ square}, 5)["large"]
    of_products = {shape: seconds_of_products(weights, rounds) for shape, weights in shapes.items()}
    of_steps = seconds_of_steps(model, prompts, layers, rounds)
    in_products = sum(seconds["plain"] for seconds in of_products.values())
    profile = {"prompts": PROMPTS, "step_ms": round(1e3 * of_steps["plain"]), "products_ms": round(1e3 * in_products)}
    rows: list[dict[str, Any]] = [{"way": "profile", **profile, "large_product_gflops": round(large / 1e9)}]
    for shape, seconds in of_products.items():
        work = 2.0 * PROMPTS * sum(weight.numel() for weight in shapes[shape])
        gflops = {"products": len(shapes[shape]), "gflops": round(work / seconds["plain"] / 1e9)}
        rows.append({"way": shape, **gflops, **{name: round(seconds["plain"] / seconds[name], 2) for name in WAYS}})
    rows += [{"way": way, "times_as_fast": round(of_steps["plain"] / s, 2)} for way, s in of_steps.items()]
    of_texts = seconds_of_texts(model, prompts, layers, max(rounds // 4, 1))
    gain = {"times_as_fast": round(of_texts["plain"] / of_texts["onednn-packed"], 2)}
    rows.append({"way": f"onednn-packed, {NEW_TOKENS} tokens", **gain})
    save_benchmark("decoding", rows)
    for row in rows:
        print(", ".join(f"{name}: {value}" for name, value in row.items()))


if __name__ == "__main__":
    main()
