"""The command line: what it accepts, what it says, and what its smaller commands do."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from conftest import FAMILIES, tiny_model
from peft import LoraConfig, PeftModel, get_peft_model
from samples import sharper
from transformers import (
    BertConfig,
    BertLMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from hyperfit_course.artifacts import artifact, cache_dir
from hyperfit_course.cli import main
from hyperfit_course.commands import export, parser, trained
from hyperfit_course.commands.parser import COMMANDS
from hyperfit_course.commands.trained import load_trained
from hyperfit_course.models import ModelError, load_model
from hyperfit_course.study.arms import base_model, held_out, tokenizer_of
from hyperfit_course.study.battery import forget
from hyperfit_course.study.config import FORM, StudyConfig, StudyError
from hyperfit_course.training import arithmetic

FEW = ["--train_texts", "4", "--epochs", "3"]  # the learning rate of the first step is 0


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    yield
    for cached in (base_model, held_out, tokenizer_of):
        cached.cache_clear()
    forget()


@pytest.fixture
def base(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> str:
    sharper(tiny_model(), 3).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What ``hyperfit study`` was told, without running it."""
    seen = SimpleNamespace(config=None, more=None)

    def study(config: StudyConfig, **more: Any) -> int:
        seen.config, seen.more = config, more
        return 0

    command = COMMANDS["study"]
    monkeypatch.setitem(COMMANDS, "study", parser.Command(command.options, command.what, "", study, command.more))
    return seen


# The parser


def test_help_starts_at_once_and_has_an_example_of_every_command() -> None:
    program = (
        "import sys; from hyperfit_course.commands.parser import COMMANDS, build; built = build(COMMANDS); "
        "print('torch' in sys.modules, *(f'hyperfit {name} ' in command.example for name, command in COMMANDS.items()))"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["False"] + ["True"] * len(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_shows_its_example_and_says_what_each_option_is(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"Example:\n  {COMMANDS[name].example}" in shown
    assert all(
        text.split()[0] in shown
        for text in (f.metadata["help"] for f in COMMANDS[name].options.__dataclass_fields__.values())
    )


def test_command_line_wins_over_the_file_and_both_over_the_preset(told: SimpleNamespace, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(
        'preset: paper\nseeds: [3, 4]\nlearning_rate: "1e-4"\nlora_learning_rate: 1e-3\nepochs: 2\n', "utf-8"
    )
    assert main(["study", "--config", str(file), "--epochs", "5", "--arms", "full,last2", "--plan"]) == 0
    config = told.config.resolved()
    assert (config.seeds, config.epochs, config.arms) == ((3, 4), 5, ("full", "last2"))
    assert (config.learning_rate, config.lora_learning_rate) == (1e-4, 1e-3)
    assert config.prompts == 30
    assert told.more == {
        "out": "study",
        "plan": True,
        "resume": False,
        "jobs": 1,
        "cluster": None,
        "source": None,
    }


def test_printed_configuration_can_be_read_again(
    told: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["study", "--seeds", "1,2", "--corpus", "news", "--learning_rate", "1e-6"]
    with pytest.raises(SystemExit):
        main([*options, "--print_config"])
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["form"] == FORM
    (tmp_path / "a.yaml").write_text(printed, encoding="utf-8")
    main(options)
    given = told.config
    main(["study", "--config", str(tmp_path / "a.yaml")])
    assert told.config == given


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sedes: [1]\n", "sedes"),
        ("seeds: [one]\n", "whole numbers, such as 0,1,2"),
        ("learning_rate: fast\n", "learning_rate"),
        ("preset: large\n", "preset"),
        ("seeds: [1\n", "is no YAML"),
    ],
)
def test_bad_file_is_refused_and_what_is_wrong_is_named(
    text: str, message: str, tmp_path: Path, told: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main(["study", "--config", str(tmp_path / "a.yaml")])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert told.config is None


def test_file_that_is_no_text_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SystemExit):
        main(["study", "--config", str(tmp_path / "a.yaml")])
    assert "a.yaml is no text in UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": FORM + 1}, "update the course"),
        ({"arms": ("last",)}, "no arm 'last'"),
        ({"arms": ()}, "is empty"),
        ({"seeds": (1, 1)}, "has 1 twice: name each once"),
        ({"parts": ()}, "is empty"),
        ({"parts": ("feelings",)}, "no part feelings"),
        ({"length": 32}, "--length has to be at least 64"),
        ({"batch_size": 8, "train_texts": 4}, "--batch_size 8 is more than --train_texts 4"),
        ({"learning_rate": 0.0}, "--learning_rate has to be positive"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        StudyConfig(**options).resolved()


def test_faults_of_the_program_are_not_hidden_and_interrupts_end_quietly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def doctor_raises(error: BaseException) -> None:
        def run(options: Any) -> int:
            raise error

        monkeypatch.setitem(COMMANDS, "doctor", parser.Command(COMMANDS["doctor"].options, "x", "", run))

    small = [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines.")]
    small.append(
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    )
    for error, status in ((StudyError("no such thing"), 2), (KeyboardInterrupt(), 130), *((each, 2) for each in small)):
        doctor_raises(error)
        assert main(["doctor"]) == status
    said = capsys.readouterr().err
    assert "no such thing\n" in said
    assert said.count("The memory is too small") == said.count("close other programs") == len(small)
    assert "Tried to allocate 2.00 GiB.)" in said
    doctor_raises(ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        main(["doctor"])


# Train, generate, export, compare


def test_adapter_is_saved_without_a_path_and_comes_back(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "adapter"
    assert main(["train", "--model", base, "--arm", "last1", "--out", str(out), "--learning_rate", "1e-2", *FEW]) == 0
    written = "".join(path.read_text(encoding="utf-8") for path in out.iterdir() if path.suffix in (".json", ".md"))
    assert str(tmp_path) not in written
    assert json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"] == "base"
    card = json.loads((out / "hyperfit.json").read_text(encoding="utf-8"))
    assert card["settings"]["precision"] == arithmetic(torch.device("cpu"))
    assert str(round(card["results"]["train_loss"], 4)) in (out / "README.md").read_text(encoding="utf-8")
    model, _, inner = load_trained(str(out), base)
    assert isinstance(model, PeftModel)
    assert inner is not None
    ids = torch.arange(20)[None]
    with torch.no_grad():
        tuned, plain = model(input_ids=ids).logits, load_model(base)[0](input_ids=ids).logits
    assert not torch.equal(tuned, plain)
    assert main(["generate", str(out), "--base", base, "--tokens", "5", "--prompt", "Once"]) == 0
    shown = capsys.readouterr().out
    assert "base: 5 tokens" in shown
    assert "tuned: 5 tokens" in shown
    assert main(["export", str(out), "--base", base, "--out", str(tmp_path / "merged")]) == 0
    with torch.no_grad():
        assert torch.allclose(load_model(tmp_path / "merged")[0](input_ids=ids).logits, tuned, atol=1e-4)
    assert main(["export", str(out), "--to", "peft", "--out", str(tmp_path / "copy")]) == 0
    assert (tmp_path / "copy" / "adapter_model.safetensors").is_file()
    assert main(["compare", base, str(tmp_path / "merged"), "--prompts", "3"]) == 0
    assert "same first choice" in capsys.readouterr().out


def test_adapter_is_not_put_on_other_weights(base: str, tmp_path: Path) -> None:
    main(["train", "--model", base, "--arm", "last1", "--out", str(tmp_path / "adapter"), *FEW])
    tiny_model(seed=1).save_pretrained(base)
    with pytest.raises(ModelError, match="other weights"):
        load_trained(str(tmp_path / "adapter"), base)
    assert main(["generate", str(tmp_path / "adapter"), "--base", base]) == 2


def test_whole_model_is_saved_and_written_beside_its_base(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tuned"
    assert main(["train", "--model", base, "--out", str(out), *FEW]) == 0
    assert main(["train", "--model", base, "--out", str(out), *FEW]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["generate", str(out), "--base", base, "--tokens", "4", "--temperature", "0.7"]) == 0
    assert main(["export", str(out), "--to", "peft", "--out", str(tmp_path / "x")]) == 2
    assert main(["export", str(out), "--to", "gguf", "--out", str(tmp_path / "x.gguf")]) == 2
    assert main(["export", str(out), "--precision", "f16", "--out", str(tmp_path / "x")]) == 2
    shown = capsys.readouterr().err
    assert all(text in shown for text in ("is no adapter", "convert_hf_to_gguf.py", "goes with --to gguf"))
    assert main(["generate", str(out), "--base", base, "--tokens", "4000"]) == 2
    assert "exceed the context of 128: choose fewer --tokens, or a shorter --prompt" in capsys.readouterr().err
    assert main(["generate", str(out), "--base", base, "--prompt", ""]) == 2


def test_model_is_written_beside_what_it_was_trained_from_and_no_other(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*options: str) -> str:
        assert main(["generate", *options]) == 2
        return capsys.readouterr().err

    assert "not known what" in refused(base)
    shutil.copytree(base, tmp_path / "other")
    more = PreTrainedTokenizerFast.from_pretrained(base)
    more.add_tokens(["a new one"])
    more.save_pretrained(tmp_path / "other")
    assert "different tokenizers" in refused(base, "--base", str(tmp_path / "other"))
    shutil.copytree(base, tmp_path / "tuned")
    card = {"base": {"name": "base", "sha256": "0" * 64}}
    (tmp_path / "tuned" / "hyperfit.json").write_text(json.dumps(card), encoding="utf-8")
    monkeypatch.chdir(tmp_path)  # where a folder of that name is, with another model
    assert "with other weights" in refused("tuned")
    assert main(["generate", "tuned", "--base", "base", "--tokens", "2"]) == 0


def test_model_that_looks_ahead_is_refused(
    base: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    config = BertConfig(vocab_size=257, max_position_embeddings=128, initializer_range=0.5, **sizes)
    bert = str(tmp_path / "bert")
    BertLMHeadModel(config).save_pretrained(bert)
    tokenizer.save_pretrained(bert)
    commands = [
        ["generate", bert, "--base", base],
        ["compare", base, bert, "--prompts", "2"],
        ["train", "--model", bert, "--out", str(tmp_path / "out"), *FEW],
    ]
    for command in commands:
        assert main(command) == 2
        assert "BertLMHeadModel looks at later tokens" in capsys.readouterr().err


def test_adapter_that_is_damaged_or_of_another_model_is_refused(
    base: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    folder = tmp_path / "adapter"
    get_peft_model(tiny_model(), LoraConfig(target_modules=["q_proj"])).save_pretrained(str(folder))
    assert isinstance(load_trained(str(folder), base)[0], PeftModel)
    FAMILIES["gpt2"]().save_pretrained(tmp_path / "without")
    llama = LlamaConfig(
        vocab_size=257, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    LlamaForCausalLM(llama).save_pretrained(tmp_path / "narrow")
    for other in ("without", "narrow"):
        tokenizer.save_pretrained(tmp_path / other)
        with pytest.raises(ModelError, match="does not fit this"):
            load_trained(str(folder), str(tmp_path / other))
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(ModelError, match="are damaged"):
        load_trained(str(folder), base)


def test_of_two_trainings_into_one_folder_the_second_says_so(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.safetensors").write_text("of the first", encoding="utf-8")
    card = {"base": {"name": "base", "sha256": "0"}, "settings": {"arm": "full"}, "results": {"train_loss": 0.1}}
    with pytest.raises(StudyError, match=r"in the meantime: start the same command with another --out"):
        trained.save_trained(tiny_model(), tokenizer, tmp_path / "out", card)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "model.safetensors").read_text(encoding="utf-8") == "of the first"


def test_of_two_exports_to_one_place_the_second_ends_before_it_loads_the_model(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.iterdir())
    load, loads = export.load_trained, []

    def load_while_another_exports(*given: Any) -> Any:
        loads.append(given)
        if len(loads) == 1:
            assert main(["export", base, "--out", str(tmp_path / "merged")]) == 2
        return load(*given)

    monkeypatch.setattr(export, "load_trained", load_while_another_exports)
    assert main(["export", base, "--out", str(tmp_path / "merged")]) == 0
    assert capsys.readouterr().err.startswith(
        f"Another process is writing {tmp_path / 'merged'}: wait for what it writes, or name another place with "
        "--out.\n"
    )
    assert len(loads) == 1
    load_model(tmp_path / "merged")
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "merged"])


def test_export_holds_nothing_of_one_that_was_stopped(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_room(*given: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before, command = sorted(tmp_path.iterdir()), ["export", base, "--out", str(tmp_path / "merged")]
    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedTokenizerFast, "save_pretrained", no_room)
        assert main(command) == 2
    assert "is full: free some space" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before, "something half-written was left"
    (tmp_path / ".merged.work").mkdir()  # as a killed process leaves it
    (tmp_path / ".merged.work" / "old.safetensors").touch()
    assert main(command) == 0
    assert not list((tmp_path / "merged").glob("old*"))


def test_base_that_was_the_courses_model_is_named_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trained.base_name(None) == "SmolLM2-135M-Instruct"
    assert trained.base_name("owner/model") == "owner/model"


# The cache


@pytest.fixture
def filled(cache: Path) -> dict[str, Path]:
    def make(folder: Path) -> None:
        (folder / "a.txt").write_text("whole", encoding="utf-8")

    kept = {
        name: artifact(kind, {"name": name}, make) for kind, name in (("some", "good"), ("some", "bad"), ("more", "x"))
    }
    (kept["bad"] / "a.txt").write_text("other", encoding="utf-8")
    (cache_dir() / "some" / "abc.work").mkdir()
    return kept


def test_cache_is_listed_verified_and_pruned(filled: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "list"]) == 0
    assert "2 kept, 1 unfinished" in capsys.readouterr().out
    assert main(["cache", "verify"]) == 1
    assert f"some/{filled['bad'].name}: the content of a.txt has changed" in capsys.readouterr().out
    assert main(["cache", "prune"]) == 0
    assert filled["good"].is_dir()
    assert filled["x"].is_dir()
    assert not filled["bad"].exists()
    assert main(["cache", "verify"]) == 0
    assert main(["cache", "prune", "--kind", "more"]) == 0
    assert not filled["x"].exists()
    left = cache_dir() / "some" / "abc.work"
    assert left.is_dir(), "an interrupted run goes on from it"
    assert main(["cache", "prune", "--kind", "unfinished"]) == 0
    assert not left.exists()
    assert filled["good"].is_dir()
    assert main(["cache", "prune", "--kind", "nothing"]) == 2
    assert main(["cache", "list", "--kind", "some"]) == 2


def test_warning_is_a_note_without_its_place_in_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # given back after the test
    main(["cache", "list"])
    assert warnings.formatwarning("2 files left out", UserWarning, "texts.py", 7) == "note: 2 files left out\n"


def test_doctor_goes_on_after_moments_that_cannot_be_had(
    base: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYPERFIT_MOMENT_BITS", "16")
    assert main(["doctor", "--model", base]) == 1
    shown = capsys.readouterr().out
    assert "HYPERFIT_MOMENT_BITS is '16': set it to 8 or 32." in shown
    assert "cache" in shown.split("set it to 8 or 32.")[1]


def test_doctor_names_what_is_damaged_and_the_begin_rule(
    filled: dict[str, Path], base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--model", base]) == 1
    shown = capsys.readouterr().out
    assert "1 damaged: run 'hyperfit cache prune'" in shown
    assert "no begin-of-text token" in shown
    assert main(["doctor", "--model", "/no/such/model"]) == 1
    assert "cannot be loaded" in capsys.readouterr().out


def test_two_studies_are_compared_claim_by_claim(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, measured in (("a", "+0.330 [+0.200, +0.460]"), ("b", "+0.120")):
        claims = [
            {"claim": "More diverse.", "measured": measured, "verdict": "holds", "values": {"0": 0.3}},
            {"claim": "Nobody measured this.", "measured": "", "verdict": "not measured", "values": {}},
        ]
        (tmp_path / name).mkdir()
        row = {"part": "training", "arm": "last 5", "seed": 0, "train_loss": {"a": 0.05, "b": 0.83}[name]}
        data = {
            "model": {"name": f"model {name}"},
            "identity": {"config": {"corpus": "tales", "seeds": [0], "epochs": {"a": 8, "b": 2}[name]}},
            "parts": [{"state": "finished"}, {"state": "missing"}],
            "rows": [row],
            "claims": claims,
        }
        (tmp_path / name / "study.json").write_text(json.dumps(data), encoding="utf-8")
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("A: model a", "B: model b", "+0.330 [+0.200, +0.460] holds", "+0.120 holds"))
    assert "Nobody measured this" not in shown
    assert (
        f"B: {tmp_path / 'b'}, a study of model b, 1 of 2 parts finished\n   not hyperfitted: last 5, seed 0" in shown
    )
    assert shown.count("not hyperfitted") == 1
    assert "They differ in --epochs: 8 and 2" in shown
    assert "--corpus" not in shown
    assert main(["compare", str(tmp_path / "a"), "some/model"]) == 2
    assert "name two studies, or two models" in capsys.readouterr().err
