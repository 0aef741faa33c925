"""Settings from flags, the environment and the file, in this order of precedence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from objectives import metrics
from search.cli.main import cli
from search.cli.options import SETTINGS, options, read_config
from search.common.config import (
    DIRECTIONS,
    ENGINES,
    LOG_FORMATS,
    METRICS,
    PRUNERS,
    SAMPLERS,
    Config,
    similar_model_name,
    why_no_model_name,
)
from search.common.errors import UsageError
from search.study.space.space import parse

FLAGS = [
    *("trials", "dataset", "study", "epochs", "jobs", "device", "seed", "sampler", "pruner", "timeout", "objective"),
    *("confirm", "confirm-seeds", "no-refit"),
    *("engine", "workspace", "data-dir", "storage", "tracking-uri", "register", "no-register", "config"),
    *("quiet", "log-format"),
]


def configured(*words: str, env: Mapping[str, str] | None = None) -> Config:
    """The settings of `run`, through its real options. The folder of the real data is ignored."""
    configs: list[Config] = []

    @click.command()
    @options()
    def command(config: Config) -> None:
        configs.append(config)

    result = CliRunner().invoke(command, list(words), env={"SEARCH_DATA_DIR": None, **(env or {})})
    if isinstance(result.exception, UsageError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return configs[0]


def test_help_lists_every_promised_flag():
    shown = CliRunner().invoke(cli, ["run", "--help"]).output
    assert [flag for flag in FLAGS if f"--{flag} " not in re.sub(r"\s+", " ", shown)] == []
    top = CliRunner().invoke(cli, ["--help"]).output
    for verb in ("report", "ui", "studies", "show", "predict"):
        assert re.search(rf"^  {verb} ", top, re.M), verb


def test_defaults_are_the_configs_and_are_shown():
    assert configured() == Config()
    shown = re.sub(r"\s+", " ", CliRunner().invoke(cli, ["run", "--help"]).output)
    for spec in fields(Config):
        if spec.default not in (None, False, ()):
            assert f"[default: {spec.default}" in shown, spec.name


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path):
    file = tmp_path / "search.toml"
    file.write_text('trials = 11\nepochs = 12\nseed = 13\nsampler = "gp"\n')
    env = {"SEARCH_EPOCHS": "22", "SEARCH_SEED": "23", "SEARCH_CONFIG": str(file)}
    config = configured("--seed", "33", env=env)
    assert (config.trials, config.epochs, config.seed, config.sampler, config.device) == (11, 22, 33, "gp", "auto")
    assert configured("--config", str(file), env={"SEARCH_TRIALS": "21"}).trials == 21


@pytest.mark.parametrize("value", ["best", "best:0", "best:-1", "best:two", "3", "none", "best:2.5", ""])
def test_what_keeps_no_trial_is_explained(value: str):
    shown = CliRunner().invoke(cli, ["run", "--keep", value]).output
    assert re.search(
        "does not say whose weights stay; give all, or best:N with a number from 1", " ".join(shown.split())
    )


def test_keep_says_how_many_trials():
    assert [configured("--keep", value).n_kept for value in ("all", "best:1", "best:20")] == [None, 1, 20]


def test_a_flag_overrides_one_parameter_of_the_files_space(tmp_path: Path):
    file = tmp_path / "search.toml"
    file.write_text('[space]\nbatch_size = [64, 128]\nadam_lr = [1e-3, 1e-2]\noptimizer = "adam"\n')
    config = configured("--config", str(file), "--fix", "batch_size=64")
    assert dict(map(parse, config.fix)) == {"batch_size": 64, "adam_lr": [0.001, 0.01], "optimizer": "adam"}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_flag_can_come_from_the_environment(name: str):
    values = {
        "device": "cuda:1",
        "image_size": "32",
        "metric": "log_loss",
        "sampler": "qmc",
        "pruner": "none",
        "direction": "maximize",
        "engine": "inline",
        "no_refit": "1",
        "no_register": "1",
        "quiet": "1",
        "log_format": "json",
        "keep": "best:3",
        "tracking_uri": "http://host",
    }
    text = values.get(name, "7")
    assert getattr(configured(env={f"SEARCH_{name.upper()}": text}), name) != getattr(Config(), name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trails = 3", r"unknown setting 'trails'; did you mean trials\?"),
        ("data-dirr = 'x'", r"unknown setting 'data_dirr'; did you mean data_dir\?"),
        ("xyzzy = 3", r"unknown setting 'xyzzy'. Known: trials, dataset"),
        ("[run]\ntrials = 3", r"unknown setting 'run'"),
        ("trials 3", r"is not TOML: "),
        ("confirm = 'x'", r"""confirm = "x": 'x' is not a valid integer"""),
        ("trials = 0", r"trials = 0: 0 is not in the range x>=1"),
        ("trials = 2.5", r"trials = 2.5; give a whole number"),
        ("trials = true", r"trials = true; true and false are for settings that are on or off"),
        ("register = false", r"register = false; true and false are for settings"),
        ("no-register = 1", r"no_register = 1; give true or false"),
        ("fix = 'family=cnn'", r"fix = \"family=cnn\"; make it a list: fix = \[\.\.\.\]"),
    ],
)
def test_a_mistake_in_the_file_is_an_error(tmp_path: Path, text: str, message: str):
    file = tmp_path / "search.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=rf"--config .*search\.toml(:| has an)? {message}"):
        configured("--config", str(file))


@pytest.mark.parametrize("content", [b"\xef\xbb\xbftrials = 3", b"\xef\xbb\xbf# from Windows\r\ntrials = 3\r\n"])
def test_a_file_may_begin_with_the_mark_that_windows_writes(tmp_path: Path, content: bytes):
    (tmp_path / "search.toml").write_bytes(content)
    assert configured("--config", str(tmp_path / "search.toml")).trials == 3


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_file_in_another_encoding_is_explained(tmp_path: Path, encoding: str):
    (tmp_path / "search.toml").write_bytes("study = 'größer'".encode(encoding))
    with pytest.raises(UsageError, match=r"search.toml is not TOML: it is not UTF-8 \(.*\); save it as UTF-8"):
        configured("--config", str(tmp_path / "search.toml"))


def test_a_missing_or_binary_file_is_an_error(tmp_path: Path):
    with pytest.raises(UsageError, match=r"--config .*nowhere.toml cannot be read: No such file"):
        configured("--config", str(tmp_path / "nowhere.toml"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\0")
    with pytest.raises(UsageError, match=r"--config .*binary.toml is not TOML"):
        configured("--config", str(tmp_path / "binary.toml"))


def test_stores_are_in_the_workspace_unless_they_are_named(tmp_path: Path):
    config = Config(workspace=tmp_path)
    assert config.storage_url == f"sqlite:///{tmp_path}/optuna.db"
    assert config.mlflow_uri == f"sqlite:///{tmp_path}/mlflow.db"
    named = Config(storage="sqlite:///a.db", tracking_uri="http://host:5000")
    assert (named.storage_url, named.mlflow_uri) == ("sqlite:///a.db", "http://host:5000")


# Any settings, through a file ---------------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=20)
PATHS = st.from_regex(r"[a-z][a-z0-9_ /.-]{0,15}[a-z]", fullmatch=True)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "trials": st.integers(1, 10**6),
    "dataset": TEXT,
    "image_size": st.integers(8, 224),
    "metric": st.sampled_from(METRICS),
    "study": TEXT,
    "epochs": st.integers(1, 1000),
    "jobs": st.integers(1, 512),
    "device": st.sampled_from(["auto", "cpu", "cuda", "cuda:3", "mps"]),
    "seed": st.integers(0, 2**62),
    "sampler": st.sampled_from(SAMPLERS),
    "pruner": st.sampled_from(PRUNERS),
    "direction": st.sampled_from(DIRECTIONS),
    "confirm": st.integers(0, 100),
    "confirm_seeds": st.integers(1, 100),
    "no_refit": st.booleans(),
    "ensemble": st.integers(2, 10),
    "target": st.floats(allow_nan=False, allow_infinity=False),
    "timeout": st.floats(1e-3, 1e9),
    "objective": TEXT,
    "engine": st.sampled_from(ENGINES),
    "workspace": PATHS,
    "storage_wait": st.floats(0, 1e6),
    "data_dir": PATHS,
    "storage": TEXT,
    "tracking_uri": st.sampled_from(["http://host:5000", "sqlite:///a b.db"]),
    "register": st.from_regex(r"[a-z0-9_]([\w. -]{0,9}\w)?", fullmatch=True),
    "no_register": st.booleans(),
    "max_parameters": st.integers(1, 10**9),
    "max_latency_ms": st.floats(1e-3, 1e9),
    "patience": st.integers(1, 1000),
    "fix": st.lists(TEXT, max_size=3),
    "warm_start": TEXT,
    "address": TEXT,
    "cpus_per_trial": st.floats(1e-3, 1e3),
    "gpus_per_trial": st.floats(0, 8),
    "keep": st.sampled_from(["all", "best:1", "best:20"]),
    "checkpoint_interval": st.floats(0, 1e6),
    "quiet": st.booleans(),
    "log_format": st.sampled_from(LOG_FORMATS),
}


def toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(letter):08x}" for letter in value) + '"'
    return repr(value)


@given(st.fixed_dictionaries({}, optional=VALUES), st.booleans())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_settings_come_back_from_a_file(tmp_path: Path, chosen: dict[str, Any], dashes: bool):
    assert set(VALUES) == set(SETTINGS)
    file = tmp_path / "any.toml"
    written = {name.replace("_", "-") if dashes else name: toml(value) for name, value in chosen.items()}
    file.write_text("".join(f"{name} = {value}\n" for name, value in written.items()), encoding="utf-8")
    context = click.Context(cli)
    read_config(context, click.Option(["--config"]), file)
    assert context.default_map == chosen
    config = configured("--config", str(file))
    for name, value in chosen.items():
        actual = getattr(config, name)
        value = tuple(value) if isinstance(value, list) else value
        assert (str(actual) if isinstance(actual, Path) else actual) == (
            str(Path(value)) if name in ("workspace", "data_dir") else value
        )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tracking-uri", "mlruns"], r"--tracking-uri 'mlruns' is not a tracking store; give http://HOST:PORT"),
        (["--register", "a/b"], r"--register 'a/b' cannot name a model in MLflow; use .*--register a-b$"),
        (["--max-latency-ms", "inf"], r"--max-latency-ms inf is not a number of ms; leave it out for no limit"),
        (["--target", "nan"], r"--target nan is not a value of the metric; leave it out for no target"),
        (["--timeout", "inf"], r"--timeout inf is not a number of seconds; leave it out for no limit"),
        (["--timeout", "1e12"], r"--timeout 1000000000000.0 is not a number of seconds; leave it out for no limit"),
    ],
)
def test_values_that_would_fail_late_are_rejected_early(words: list[str], message: str):
    with pytest.raises(UsageError, match=message):
        configured(*words)


@pytest.mark.parametrize(
    "name",
    [*(".", "..", "...", "..a", ".a", " ", "", " a", "a ", "a/b", "a:b", "a@b", "a'b", 'a"b', "a\nb", "a\n", "a\0")]
    + ["a%20b", "a#b", "models:/a/1", "a" * 257, "\u2028", "caf\u0065\u0301"],
)
def test_a_name_that_mlflow_or_its_uris_refuse_is_no_model_name(name: str):
    assert why_no_model_name(similar_model_name(name)) is None
    with pytest.raises(UsageError, match=r"cannot name a model in MLflow; use .*--register \S+$") as raised:
        Config(register=name)
    assert len(str(raised.value)) < 300
    assert str(raised.value).isprintable()


def test_metrics_are_those_that_are_computed():
    assert tuple(metrics.METRICS) == METRICS  # `search.common` may not import objectives
