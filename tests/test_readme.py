"""The README and docs/: flags exist, commands are understood, examples run, links resolve."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import click
import pytest

from objectives.images.objective import ImageClassification
from search.cli.main import cli
from search.common.config import Config, Device
from search.study.space.space import format_distribution, narrow

ROOT = Path(__file__).parent.parent
PAGES = {path: path.read_text(encoding="utf-8") for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))}
README = PAGES[ROOT / "README.md"]


def docs(name: str) -> str:
    """The text of a page of docs/."""
    return PAGES[ROOT / "docs" / f"{name}.md"]


def flags_table() -> str:
    """The table of docs/flags.md, made from the settings."""
    rows = ["| flag | default | meaning |", "| --- | --- | --- |"]
    for spec in fields(Config):
        kind, text = spec.metadata["type"], spec.metadata["help"]
        default = spec.metadata["unset"] or ""
        if not isinstance(spec.default, bool | tuple | None):
            default = f"`{spec.default}`"
        choices = " | ".join(kind.choices) if isinstance(kind, click.Choice) else spec.metadata["metavar"] or ""
        if isinstance(kind, Device):
            choices = "auto | cpu | cuda | cuda:I | mps"
        flag = f"--{spec.name.replace('_', '-')} {choices}".strip().replace("|", r"\|")
        rows.append(f"| `{flag}` | {default} | {text} |")
    return "\n".join(rows)


def commands() -> list[str]:
    blocks = [block for page in PAGES.values() for block in re.findall(r"```sh\n(.*?)```", page, re.S)]
    lines = [line.split("#")[0].strip() for block in blocks for line in block.split("\n")]
    return [part.strip() for line in lines for part in line.split("&&") if part.strip().startswith("python -m search")]


def test_the_flags_table_matches_the_settings() -> None:
    assert flags_table() in docs("flags"), f"put this into docs/flags.md:\n{flags_table()}"


@pytest.mark.parametrize("command", commands())
def test_documented_commands_parse(command: str) -> None:
    words = shlex.split(command)[3:]
    verb = words[0] if words and not words[0].startswith("-") else "run"
    rest = words[1:] if verb == (words or [""])[0] else words
    with click.Context(cli) as parent:
        cli.commands[verb].make_context(verb, rest, parent=parent)  # raises UsageError for what it does not know


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_images_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGES[page]):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_program_prints_the_documented_messages() -> None:
    page = docs("troubleshooting")
    table = page[page.index("| message | meaning") :].split("\n\n")[0]
    messages = [row.split("|")[1].split("`")[1] for row in table.splitlines()[2:]]
    texts = [
        path.read_text(encoding="utf-8") for part in ("search", "objectives") for path in (ROOT / part).rglob("*.py")
    ]
    code = re.sub(r'"\s+f?"', "", "\n".join(texts))  # literals that are one sentence
    code = re.sub(r"\{n_gpus\}", "0", code)
    for message in messages:
        assert message in code, f"the program never prints {message!r}"


def test_every_dependency_is_documented() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    direct = {re.match(r"[\w-]+", requirement)[0] for requirement in project["dependencies"]}  # type: ignore[index]
    page = docs("dependencies")
    table = page[page.index("| package | ") :].split("\n\n")[0]
    listed = [name for row in table.splitlines()[2:] for name in row.split("|")[1].strip().split(", ")]
    assert sorted(listed) == sorted(direct)


def test_the_example_settings_are_a_space(tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", docs("search-space"), re.S)
    (tmp_path / "settings.toml").write_text(block, encoding="utf-8")
    with click.Context(cli) as parent:
        words = ["--config", str(tmp_path / "settings.toml")]
        params = cli.commands["run"].make_context("run", words, parent=parent).params
    assert params["trials"] == 50
    space = narrow(ImageClassification("digits"), params["fix"])
    narrowed = {name: format_distribution(values) for name, values in space.narrowed.items()}
    assert narrowed == {"optimizer": "adam or adamw", "adam_lr": "0.001 to 0.01", "batch_size": "128"}


@pytest.mark.slow
def test_the_example_objective_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", docs("objectives"), re.S)
    example = next(block for block in blocks if "class Bowl" in block)
    (tmp_path / "bowl.py").write_text(example, encoding="utf-8")
    command = [sys.executable, "-m", "search", "--objective", "bowl:Bowl", "--trials", "6", "--jobs", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 trials" in done.stdout
    assert "over origin" in done.stdout
    assert (tmp_path / "mlruns/reports/bowl.html").exists()
