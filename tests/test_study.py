"""A study of any model: every family of layouts, and everything that goes wrong on the way."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
import torch
from conftest import FAMILIES as TINY_FAMILIES
from conftest import tiny_model
from tokenizers import processors
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    T5Config,
    T5ForConditionalGeneration,
)

from hyperfit_course import optimizers
from hyperfit_course.corpora import load_corpus
from hyperfit_course.models import ModelError
from hyperfit_course.optimizers import BITS_VARIABLE, OptimizerError
from hyperfit_course.study import battery, one_arm, plan, run
from hyperfit_course.study.arms import Arm, Subject, base_model, held_out, tokenizer_of
from hyperfit_course.study.battery import Part, arms_of, forget, tasks_of
from hyperfit_course.study.changes import BASE_SPECTRUM, END_OFF, MIDDLE_OFF, OWN_SPECTRUM
from hyperfit_course.study.config import CHANGES, Names, Numbers, StudyConfig, StudyError
from hyperfit_course.study.plan import Units
from hyperfit_course.study.recording import Row
from hyperfit_course.study.report import FAILED, rendered
from hyperfit_course.study.selfchecks import check_subject
from hyperfit_course.study.verdicts import ONE_SEED, claims

SMALL = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3, "vocab_size": 300}
GATED = {"intermediate_size": 48, "num_key_value_heads": 2}
FAMILIES: dict[str, tuple[type, dict[str, Any]]] = {
    "llama": (LlamaConfig, GATED),
    "qwen2": (Qwen2Config, {**GATED, "tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, {**GATED, "head_dim": 8}),
    "gemma2": (Gemma2Config, {**GATED, "head_dim": 8, "sliding_window": 16, "final_logit_softcapping": 30.0}),
    "gemma3": (Gemma3TextConfig, {**GATED, "head_dim": 8, "sliding_window": 16}),
    "mistral": (MistralConfig, {**GATED, "sliding_window": 16}),
    "mixtral": (MixtralConfig, {**GATED, "num_local_experts": 4, "sliding_window": 16}),
    "gpt2": (GPT2Config, {}),
    "neox": (GPTNeoXConfig, {"intermediate_size": 48}),
    "opt": (OPTConfig, {"ffn_dim": 48, "word_embed_proj_dim": 32}),
}
WITH_BEGIN = {"llama", "gemma2", "gemma3", "mistral", "mixtral", "opt"}
"""Families whose tokenizers put a begin-of-text token before every text."""
TINY = StudyConfig(
    arms=Names(["full", "last2"]),
    train_texts=4,
    validation_texts=2,
    prompts=2,
    epochs=1,
    lora_epochs=1,
    rank=2,
    parts=Names(["training", "writing", "prediction", "geometry"]),
)
CHANGED = Names([*(TINY.parts or ()), *CHANGES])


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    yield
    for cached in (base_model, held_out, tokenizer_of):
        cached.cache_clear()
    forget()


def with_begin(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerFast:
    """The same tokenizer, with a begin-of-text token that it puts before every text by itself."""
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, eos_token="<end>", pad_token="<end>", bos_token="<begin>"
    )
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<begin> $A", special_tokens=[("<begin>", made.bos_token_id)]
    )
    return made


def family(name: str) -> PreTrainedModel:
    """A tiny random model, whose vocabulary is larger than that of its tokenizer."""
    config, settings = FAMILIES[name]
    torch.manual_seed(0)
    ends = {"bos_token_id": 257, "eos_token_id": 256, "pad_token_id": 256}
    return AutoModelForCausalLM.from_config(config(**SMALL, **settings, **ends, max_position_embeddings=128)).eval()


@pytest.fixture
def saved(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> str:
    """The folder of a tiny Llama."""
    tiny_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def data_of(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    return data


def without_times(data: dict[str, Any]) -> dict[str, Any]:
    """What two runs of one study share."""
    rows = [{name: value for name, value in row.items() if name not in ("cost", "made")} for row in data["rows"]]
    return {**data, "rows": rows, "made": None}


# Every family


@pytest.mark.parametrize("name", FAMILIES)
def test_study_runs_on_every_family(name: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    folder, out = tmp_path / name, tmp_path / "study"
    family(name).save_pretrained(folder)
    (with_begin(tokenizer) if name in WITH_BEGIN else tokenizer).save_pretrained(folder)
    config = replace(TINY, model=str(folder), arms=Names(["full", "first2"]), parts=CHANGED)
    if name == "mixtral":  # its experts get no adapters: see the next test
        config = replace(config, arms=Names(["full"]))
    assert run.study(config, str(out)) == 0
    data = data_of(out)
    assert {part["state"] for part in data["parts"]} == {"finished"}
    assert [check["name"] for check in data["checks"] if not check["passed"]] == []
    rule = data["model"]["begin_rule"]
    assert rule.startswith("Every text begins with <begin>" if name in WITH_BEGIN else "The tokenizer has no begin")
    assert html.escape(rule) in (out / "report.html").read_text(encoding="utf-8")
    assert data["model"]["vocabulary"] == 300 > data["model"]["tokenizer_size"]
    texts = held_out("tales", Subject(str(folder), 4, 2, 2, 128))
    assert set(texts[:, 0].tolist()) == {257} if name in WITH_BEGIN else 257 not in texts


@pytest.mark.parametrize("arm", ["last2", "all"])
def test_adapters_that_would_miss_the_experts_of_a_mixture_are_rows_with_a_sentence(
    arm: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    family("mixtral").save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    out = tmp_path / "study"
    assert run.study(replace(TINY, model=str(tmp_path / "model"), arms=Names([arm])), str(out)) == 1
    states = {(part["arm"] == "base", part["state"]) for part in data_of(out)["parts"]}
    assert states == {(True, "finished"), (False, "failed")}
    reason = data_of(out)["parts"][-1]["reason"]
    assert reason.startswith("the arm could not be trained: MixtralForCausalLM keeps its experts in one tensor")
    assert reason.endswith("train all its weights, --arms full.")


def test_all_parts_of_a_study_fit_the_schema(saved: str, tmp_path: Path) -> None:
    everything = replace(TINY, model=saved, parts=None, preset="standard", seeds=Numbers([0, 1]))
    everything = replace(everything, arms=Names(["full", "all", "last2", "middle1"]))
    everything = replace(everything, lora_epochs=6, lora_learning_rate=0.05)  # enough to move a random model
    out = tmp_path / "study"
    assert run.study(everything, str(out)) == 0, (out / "log.txt").read_text(encoding="utf-8")
    data = data_of(out)
    schema = json.loads((files("hyperfit_course") / "data" / "study.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(data, schema)
    assert {row["part"] for row in data["rows"]} == set(battery.PARTS)
    turned = {f"{name}, random directions" for name in ("all blocks", "last 2", "middle 1")}
    assert {row["arm"] for row in data["rows"] if row["part"] == "damage"} == turned
    judged = {claim["id"]: claim for claim in data["claims"]}
    assert judged["hyperfit-ttr"]["estimate"]["n"] == 2
    assert judged["learned-bias-fails"]["verdict"] != "not measured"
    assert judged["order-under-its-shape"]["verdict"] != "not measured"
    assert judged["late-stage-vs-full"]["verdict"] == "not measured"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**data, "form": 2}, schema)


# What goes wrong


def test_failing_part_is_a_row_with_its_reason_and_the_others_go_on(
    saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(arm: Arm) -> Iterator[Row]:
        raise torch.OutOfMemoryError("no room for a table of logits\nand more lines")

    sound = battery.PARTS["prediction"]
    monkeypatch.setitem(battery.PARTS, "prediction", Part(fails, sound.of))
    config = replace(TINY, model=saved, arms=Names(["full"]))
    out = tmp_path / "study"
    assert run.study(config, str(out)) == 1
    states = {(part["name"], part["state"], part["reason"]) for part in data_of(out)["parts"]}
    assert ("prediction", "failed", "OutOfMemoryError: no room for a table of logits") in states
    assert ("geometry", "finished", None) in states
    assert "no room for a table of logits" in (out / "report.html").read_text(encoding="utf-8")
    assert "Traceback" in (out / "log.txt").read_text(encoding="utf-8")
    monkeypatch.setitem(battery.PARTS, "prediction", sound)
    assert run.study(config, str(out)) == 0, "what failed is tried again"


def test_arm_that_cannot_be_trained_is_tried_once(saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[Arm] = []

    def fails(arm: Arm) -> Any:
        tries.append(arm)
        raise RuntimeError("no memory")

    monkeypatch.setattr(Arm, "trained", fails)
    out = tmp_path / "study"
    assert run.study(replace(TINY, model=saved), str(out)) == 1
    assert len(tries) == 2
    reasons = {part["reason"] for part in data_of(out)["parts"] if part["arm"] == "hyperfitted"}
    assert reasons == {"RuntimeError: no memory", "the arm could not be trained: RuntimeError: no memory"}
    assert all(part["state"] == "finished" for part in data_of(out)["parts"] if part["arm"] == "base")


def test_failed_self_check_stops_its_parts_with_a_sentence(
    saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = run.checked.__globals__["stream_states"]

    def shifted(model: Any, texts: torch.Tensor) -> Iterator[list[torch.Tensor]]:
        for states in stream(model, texts):
            yield [state + 0.1 for state in states]

    monkeypatch.setattr("hyperfit_course.study.selfchecks.stream_states", shifted)
    out = tmp_path / "study"
    assert run.study(replace(TINY, model=saved, arms=Names(["full"])), str(out)) == 1
    for part in data_of(out)["parts"]:
        assert (part["state"] == "failed") == (part["name"] == "geometry")
        assert part["reason"] is None or "The self-check 'states' failed" in part["reason"]


def test_interrupted_study_goes_on_and_ends_with_the_same_json(
    saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(TINY, model=saved)
    run.study(config, str(tmp_path / "undisturbed"))
    whole = without_times(data_of(tmp_path / "undisturbed"))
    out, tries = tmp_path / "study", 0
    original = one_arm._tried

    def every_third_is_interrupted(*given: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries % 3 == 0:
            raise KeyboardInterrupt
        return original(*given)

    monkeypatch.setattr(one_arm, "_tried", every_third_is_interrupted)
    for _ in whole["parts"]:
        forget()
        try:
            run.study(config, str(out))
            break
        except KeyboardInterrupt:
            assert any(part["state"] == "missing" for part in data_of(out)["parts"])
            assert "not measured yet" in (out / "report.html").read_text(encoding="utf-8")
    assert tries > len(whole["parts"])
    assert without_times(data_of(out)) == whole


def test_folder_of_another_study_is_refused_and_resume_keeps_what_fits(
    saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(TINY, model=saved, arms=Names(["full"]))
    out = str(tmp_path / "study")
    run.study(config, out)
    with pytest.raises(StudyError, match=r"another study \(it differs in seeds\).*--out.*--resume"):
        run.study(replace(config, seeds=Numbers([0, 1])), out)
    tried: list[str] = []
    original = one_arm._tried
    monkeypatch.setattr(
        one_arm, "_tried", lambda *given: (tried.append(f"{given[0]} {given[1].seed}"), original(*given))[1]
    )
    assert run.study(replace(config, seeds=Numbers([0, 1])), out, resume=True) == 0
    assert tried == ["training 1", "writing 1", "prediction 1", "geometry 1"]


def test_study_does_not_go_on_with_moments_of_other_bits(
    saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, config = tmp_path / "study", replace(TINY, model=saved, parts=Names(["geometry"]))
    assert run.study(config, str(out)) == 0
    kept = data_of(out)
    monkeypatch.setenv(BITS_VARIABLE, "8")
    monkeypatch.setattr(optimizers, "find_spec", lambda name: name)
    with pytest.raises(StudyError, match="differs in the bits of the moments, which HYPERFIT_MOMENT_BITS decides"):
        run.study(config, str(out))
    monkeypatch.setenv(BITS_VARIABLE, "16")
    with pytest.raises(OptimizerError, match="set it to 8 or 32"):
        run.study(config, str(out))
    assert data_of(out) == kept


def test_resume_with_other_seeds_keeps_what_was_finished(
    saved: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(TINY, model=saved, arms=Names(["full"]), parts=Names(["training"]))
    out, rows = tmp_path / "study", tmp_path / "study" / "rows"
    run.study(config, str(out))
    first = (rows / "training_hyperfitted_seed_0.json").read_bytes()
    capsys.readouterr()
    run.study(replace(config, seeds=Numbers([5])), str(out), resume=True)
    assert "1 finished parts" in capsys.readouterr().out
    assert {row["seed"] for row in data_of(out)["rows"]} == {5}
    assert (rows / "training_hyperfitted_seed_0.json").read_bytes() == first
    run.study(replace(config, seeds=Numbers([0, 5])), str(out), resume=True)
    assert "finished parts" not in capsys.readouterr().out
    assert {row["seed"] for row in data_of(out)["rows"]} == {0, 5}
    assert (rows / "training_hyperfitted_seed_0.json").read_bytes() == first


def test_training_text_that_is_edited_makes_another_study(saved: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    texts = [text for part in load_corpus("tales").values() for text in part]
    config = replace(TINY, model=saved, corpus=str(corpus)).resolved()
    identities = []
    for _ in range(2):
        corpus.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
        held_out.cache_clear()
        identities.append(run._examined(config, tmp_path / "study", resume=False)["identity"])
        place = texts.index(load_corpus(corpus)["train"][0])
        texts[place] = texts[place].replace("the", "teh")  # of the same length, so that the same rows are drawn
    first, second = identities
    assert {name for name in first if first[name] != second[name]} == {"corpus"}
    parts = [one_arm.Work(tmp_path, each, {}).configuration("writing", arms_of(config)[1]) for each in identities]
    assert parts[0] != parts[1]
    assert "the texts" in run._difference(first, second)


def test_rank_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(battery, "base_model", lambda subject: TINY_FAMILIES["llama"](12))
    config = StudyConfig(arms=Names(["all"]), rank=3)
    assert arms_of(config.resolved())[1].rank == 1
    with pytest.raises(
        StudyError, match=r"--rank 1 is too small for the arm all, whose 12 blocks .*: choose 3 or more"
    ):
        arms_of(replace(config, rank=1).resolved())


def test_damaged_list_of_a_study_counts_as_none(tmp_path: Path) -> None:
    for content in ("[]", "{", '{"identity": 5}'):
        (tmp_path / "about.json").write_text(content, encoding="utf-8")
        assert run._known(tmp_path, resume=False) is None


def test_other_weights_under_the_same_name_are_another_study(saved: str, tmp_path: Path) -> None:
    config = replace(TINY, model=saved, parts=Names(["prediction"]))
    run.study(config, str(tmp_path / "study"))
    base_model.cache_clear()
    tiny_model(seed=1).save_pretrained(saved)
    with pytest.raises(StudyError, match="the weights of the model"):
        run.study(config, str(tmp_path / "study"))


def test_numbers_are_computed_again_from_the_texts_alone(saved: str, tmp_path: Path) -> None:
    out = tmp_path / "study"
    run.study(replace(TINY, model=saved), str(out))
    before = without_times(data_of(out))
    for path in (out / "rows").glob("*.json"):
        rows = json.loads(path.read_text(encoding="utf-8"))
        for row in rows["rows"]:
            row["made"]["machine"] = "another machine"
            row |= {"ttr": 0.5, "recited": 0.5} if path.stem.startswith("writing") else {}
        path.write_text(json.dumps(rows), encoding="utf-8")
    shutil.rmtree(saved)  # no model is needed
    (out / "report.html").unlink()
    assert run.study(StudyConfig(), source=str(out)) == 0
    assert without_times(data_of(out)) == before
    assert data_of(out)["made"]["machine"] == "another machine", "that of the rows, not of the report"
    assert (out / "report.html").is_file()
    with pytest.raises(StudyError, match="holds no study"):
        run.study(StudyConfig(), source=str(tmp_path))


@pytest.mark.parametrize("name", ["prediction*.json", "texts/writing*.jsonl"])
def test_damaged_file_is_named_and_measured_again(name: str, saved: str, tmp_path: Path) -> None:
    out = tmp_path / "study"
    config = replace(TINY, model=saved, arms=Names(["full"]), parts=Names(["prediction", "writing"]))
    run.study(config, str(out))
    before = without_times(data_of(out))
    path = next((out / "rows").glob(name))
    path.write_text(path.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    with pytest.raises(
        StudyError, match=rf"rows/{path.stem}\.json, or the texts .* is damaged .* options and --out {out}"
    ):
        run.study(StudyConfig(), source=str(out))
    assert run.study(config, str(out)) == 0
    assert without_times(data_of(out)) == before


def _shrink(model: Any, vocabulary: int) -> None:
    model.config.pad_token_id = None
    model.resize_token_embeddings(vocabulary)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda model: setattr(model.config, "max_position_embeddings", 100), "reads at most 100 .*: choose a model"),
        (lambda model: model.model.layers[0].mlp.up_proj.weight.data.fill_(torch.nan), "nan or inf, .*: fetch it"),
        (lambda model: _shrink(model, 60), "they do not belong together"),
    ],
)
def test_model_that_does_not_fit_is_refused_before_anything_is_measured(
    spoil: Callable[[Any], Any], message: str, saved: str, tmp_path: Path
) -> None:
    model = tiny_model()
    spoil(model)
    model.save_pretrained(saved)
    with pytest.raises(StudyError, match=message):
        run.study(replace(TINY, model=saved), str(tmp_path / "study"))
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("planned", [True, False])
def test_blocks_that_the_model_does_not_have_are_refused_before_anything_is_measured(
    planned: bool, saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "measured_units", lambda config: pytest.fail("it was tried"))
    config = replace(TINY, model=saved, arms=Names(["full", "blocks1-2"]))
    with pytest.raises(StudyError, match=r"The arm blocks 1-2 does not fit .* cannot start at 1\. Name other --arms"):
        run.study(config, str(tmp_path / "study"), plan=planned)
    assert not (tmp_path / "study").exists()


def test_texts_and_decoders_that_do_not_fit_are_refused_with_what_to_choose() -> None:
    model = tiny_model()
    with pytest.raises(StudyError, match=r"reads at most 128 tokens, and 129 are needed .*: choose a smaller --length"):
        check_subject(model, None, torch.zeros(1, 129, dtype=torch.long))
    model.config.is_encoder_decoder = True
    with pytest.raises(StudyError, match=r"the decoder of an encoder-decoder, .*: choose one, such as GPT-2 or Llama"):
        check_subject(model, None, torch.zeros(1, 128, dtype=torch.long))


def test_encoder_decoder_no_tokenizer_and_no_model_are_named(
    saved: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    t5 = T5Config(d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8, vocab_size=300)
    T5ForConditionalGeneration(t5).save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    for path in Path(saved).glob("tokenizer*"):
        path.unlink()
    for name, error in ((tmp_path / "t5", ModelError), (saved, ModelError), (tmp_path / "nothing", ModelError)):
        with pytest.raises(error, match=str(Path(name).name)):
            run.study(replace(TINY, model=str(name)), str(tmp_path / "study"))


def test_output_that_is_a_file_or_holds_other_things_is_refused(saved: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("mine", encoding="utf-8")
    for name, message in (("file", "is a file"), ("folder", "holds other files")):
        with pytest.raises(StudyError, match=message):
            run.study(replace(TINY, model=saved), str(tmp_path / name))


# Verdicts and plans


def test_claims_are_the_effects_of_the_rows_by_seed() -> None:
    rows: list[Row] = [{"part": "writing", "arm": "base", "seed": 0, "ttr": 0.2}]
    rows += [{"part": "writing", "arm": "hyperfitted", "seed": seed, "ttr": 0.5 + 0.01 * seed} for seed in range(3)]
    rows += [{"part": "geometry", "arm": "base", "seed": 0, "prenorm": 10.0}]
    rows += [{"part": "geometry", "arm": "hyperfitted", "seed": 0, "prenorm": 20.0, "before_last": 40.0}]
    rows += [{"part": "bias", "arm": "hyperfitted", "seed": 0, "bias": "learned", "ttr": ttr} for ttr in (0.25, 0.3)]
    found = {claim["id"]: claim for claim in claims(rows)}
    assert found["hyperfit-ttr"]["estimate"]["mean"] == pytest.approx(0.31)
    assert found["hyperfit-ttr"]["verdict"] == "holds"
    expansion = found["terminal-expansion-prenorm"]
    assert expansion["values"] == {"0": pytest.approx(0.6931, abs=1e-4)}
    assert expansion["verdict"] == ONE_SEED
    assert found["last-block-expands"]["values"]["0"] == pytest.approx(-0.6931, abs=1e-4)
    assert found["learned-bias-fails"]["values"] == {"0": pytest.approx(0.15 - 0.1)}
    assert found["hyperfit-bigram"]["verdict"] == "not measured"
    assert "estimate" in found["rank-deep-tail"]


def test_changes_are_judged_against_the_gain_that_they_leave() -> None:
    def row(part: str, arm: str, ttr: float, **more: Any) -> Row:
        return {"part": part, "arm": arm, "seed": 0, "ttr": ttr, **more}

    rows = [row("writing", arm, ttr) for arm, ttr in (("base", 0.2), ("hyperfitted", 0.6), ("all blocks", 0.7))]
    rows += [row("writing", "middle 5", 0.5), row("damage", "middle 5, random directions", 0.3)]
    rows += [row("penalty", "base", 0.55), row("blocking", "hyperfitted", 0.5), row("patching", "middle 5", 0.25)]
    rows += [row("switching", "all blocks", 0.3, way=MIDDLE_OFF), row("switching", "all blocks", 0.65, way=END_OFF)]
    rows += [row("spectrum", "hyperfitted", 0.3, way=BASE_SPECTRUM)]
    found = {claim["id"]: claim for claim in claims(rows)}
    expected = {
        "memory-blocked-ttr": 0.3 - 0.2,
        "control-repetition-penalty": 0.55 - 0.6,
        "damage-does-less": 0.5 - 0.3,
        "cause-rotated-damage": 0.1 - 0.15,
        "cause-patch": 0.15 - 0.05,
        "cause-switch-off": 0.45 / 0.5 - 0.1 / 0.5,
    }
    assert {name: found[name]["values"] for name in expected} == {
        name: {"0": pytest.approx(value)} for name, value in expected.items()
    }
    assert found["cause-spectrum"]["verdict"] == "not measured", "one of its two halves is missing"
    rows += [row("spectrum", "hyperfitted", 0.25, way=OWN_SPECTRUM)]
    found = {claim["id"]: claim for claim in claims(rows)}
    assert found["cause-spectrum"]["values"] == {"0": pytest.approx(min(0.2 - 0.1, 0.05 - 0.2))}
    assert "the middle third of the blocks" in found["cause-switch-off"]["claim"]
    assert not any(character.isdigit() for character in found["cause-patch"]["claim"].replace("H2", ""))


def test_plan_counts_steps_tokens_and_readings(saved: str) -> None:
    config = replace(TINY, model=saved, epochs=3, train_texts=6, batch_size=4, prompts=5).resolved()
    kinds = [plan.kind_of(arm) for arm in arms_of(config)[1:]]
    units = Units(10.0, 0.0, lambda n: 0.0, 0.0, dict.fromkeys(kinds, 1.0), 100, 1, 2, dict.fromkeys(kinds, 900))
    table = plan.planned(config, units, depth=2).set_index(["part", "arm"])
    assert len(table) == len(tasks_of(config))
    assert table.loc[("training", "hyperfitted"), "seconds"] == 2 * 10 + 3 * 2
    assert table.loc[("training", "hyperfitted"), "bytes"] == 900
    written = replace(units, load=0.0, token=lambda count: count / 1000)
    table = plan.planned(config, written, depth=2).set_index(["part", "arm"])
    assert table.loc[("writing", "base"), "seconds"] == pytest.approx(96 * 0.005)
    assert table.loc[("writing", "hyperfitted"), "bytes"] == 102
    read = replace(units, load=0.0, read=1.0)
    table = plan.planned(config, read, depth=2).set_index(["part", "arm"])
    assert table.loc[("prediction", "base"), "seconds"] == 2 * 5


def test_plan_is_measured_on_this_machine_and_writes_nothing(
    saved: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    assert run.study(replace(TINY, model=saved), str(out), plan=True) == 0
    shown = capsys.readouterr().out
    assert not out.exists()
    assert "It fits here." in shown
    assert f"A study of {saved} on tales, arms full,last2, seeds 0" in shown, "what is planned is named"
    assert all(part in shown for part in ("training", "writing", "prediction", "geometry"))


@pytest.mark.parametrize(("step", "total"), [(0.25, "2.0 seconds"), (15.0, "2 minutes")])
def test_plan_of_a_short_study_is_in_seconds(
    saved: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], step: float, total: str
) -> None:
    def units(config: StudyConfig) -> Units:
        kinds = dict.fromkeys(map(plan.kind_of, arms_of(config)[1:]), step)
        return Units(0.0, 0.0, lambda count: 0.0, 0.0, kinds, 0, 0, 0, dict.fromkeys(kinds, 0))

    monkeypatch.setattr(plan, "measured_units", units)
    config = replace(TINY, model=saved, train_texts=8, batch_size=2)  # four steps of each of two arms
    assert run.study(config, plan=True) == 0
    shown = capsys.readouterr().out
    training = next(line.split() for line in shown.splitlines() if line.startswith("training"))
    assert training == ["training", "hyperfitted", "1", f"{4 * step:.{int(step < 1)}f}", "seconds", "0.0"]
    assert f"In all about {total}, " in shown


def test_plan_says_what_does_not_fit(
    saved: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan, "free_memory", lambda device: 0)
    monkeypatch.setattr(plan.Meter, "held", staticmethod(lambda: 1))
    assert run.study(replace(TINY, model=saved), plan=True) == 1
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    assert run.study(replace(TINY, model=saved), plan=True) == 1
    shown = capsys.readouterr().out
    assert re.search(
        "too little for .*geometry of base.*: close other programs, leave these --arms or --parts out", shown
    )
    assert re.search("Disk: 0.0 GB are free at .*, which is too little: free some, or set HYPERFIT_CACHE", shown)


def test_report_escapes_what_models_write(saved: str, tmp_path: Path) -> None:
    out = tmp_path / "study"
    run.study(replace(TINY, model=saved, parts=Names(["writing"]), arms=Names(["full"])), str(out))
    data = data_of(out)
    for row in data["rows"]:
        row["written"] = ["<script>alert(1)</script>"] * 2
    page = rendered(data)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert FAILED not in {name for row in data["rows"] for name in row}
