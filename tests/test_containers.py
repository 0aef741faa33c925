"""docker/: what images, compose, Kubernetes and Slurm are made from agrees with itself and with the code."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import stat
import subprocess
import sysconfig
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from search.cli.main import cli
from search.common.config import ENGINES

ROOT = Path(__file__).parent.parent
DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


# Images -------------------------------------------------------------------------------------------------------------


def stages() -> dict[str, str]:
    """Text of the Dockerfile by stage."""
    parts = re.split(r"^FROM (\S+) AS (\S+)\n", DOCKERFILE, flags=re.M)[1:]
    return {name: text for _, name, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True)}


def test_what_runs_is_not_root_and_what_is_installed_is_pinned():
    assert list(stages())[-1] == "gpu", "a bare `docker build` makes the last stage"
    for final in ("servers", "cpu", "gpu"):
        assert "\nUSER search\n" in stages()[final]
    installs = re.findall(r"pip install (.*)", DOCKERFILE)
    assert installs
    assert [line for line in installs if not line.startswith(("-c /opt/constraints.txt", "--no-deps /wheel"))] == []
    assert re.search(r"^ARG BASE_IMAGE=python:\d+\.\d+\.\d+-\S+$", DOCKERFILE, re.M)


def pins() -> set[str]:
    """Names in constraints.txt, as they are compared."""
    return {plain(line.partition("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines()}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_everything_that_is_installed_for_the_project_is_pinned():
    wanted, needed = {"search"}, set[str]()
    while wanted - needed:
        needed |= (names := wanted - needed)
        wanted = {requirement for name in names for requirement in required(name)}
    assert {"ray", "grpcio", "torch", "psycopg", "setuptools"} <= needed, "the walk came nowhere"
    assert needed - pins() <= {"search", "pip"}, "pip is every environment's own"


def required(name: str) -> set[str]:
    """What an installed distribution and its extras need, as far as that is installed."""
    lines = [line for found in installed(name) for line in found.requires or []]
    return {needed for line in lines if installed(needed := plain(re.match(r"[\w.-]+", line)[0]))}  # type: ignore[index]


def installed(name: str) -> list[metadata.Distribution]:
    """The distribution in this environment's own folder: Ray, once imported, adds one that it brings along."""
    return list(metadata.distributions(name=name, path=[sysconfig.get_path("purelib")]))


def test_what_the_servers_need_is_pinned():
    (named,) = re.findall(r"pip install -c \S+ (.*)", stages()["servers"])
    wanted = {plain(re.sub(r"\[.*\]", "", name)) for name in shlex.split(named)}
    assert wanted <= pins()
    assert {"flask-wtf", "wtforms"} <= pins(), "what mlflow[auth] brings"
    assert {"opencensus", "py-spy"} <= pins(), "what ray[default] brings"


def test_no_secret_is_sent_to_whoever_builds():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[ignored.index("*") :][0] == "*"
    copied = set(re.findall(r"^COPY (?:--chmod=\d+ )?(?!--from)(.*) \S+$", DOCKERFILE, re.M))
    sources = {source for line in copied for source in line.split()}
    assert {f"!{source}" for source in sources} <= set(ignored)
    assert "/docker/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_extra_that_the_image_installs_is_there():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (default,) = re.findall(r"^ARG EXTRAS=(.*)$", DOCKERFILE, re.M)
    assert set(default.split(",")) <= set(extras)


# The entrypoint and the secrets -------------------------------------------------------------------------------------


def test_the_entrypoint_hands_secrets_over_in_private(tmp_path: Path):
    (tmp_path / "pgpass").write_text("*:*:*:search:word\n")
    (tmp_path / "pgpass").chmod(0o644)
    (tmp_path / "key").write_text("flask-key")
    program = (
        'stat -c %a "$PGPASSFILE"; cat "$PGPASSFILE"; echo "$MLFLOW_FLASK_SERVER_SECRET_KEY"; cat /proc/$$/cmdline'
    )
    variables = {"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path), "PGPASSFILE": str(tmp_path / "pgpass")}
    variables["MLFLOW_FLASK_SERVER_SECRET_KEY_FILE"] = str(tmp_path / "key")
    done = subprocess.run([DOCKER / "entrypoint", "sh", "-c", program], env=variables, capture_output=True, text=True)
    assert done.stdout.splitlines()[:3] == ["600", "*:*:*:search:word", "flask-key"], done.stderr
    assert "word" not in done.stdout.splitlines()[3]


def test_the_entrypoint_needs_no_secret_and_passes_the_status_on():
    done = subprocess.run([DOCKER / "entrypoint", "sh", "-c", "exit 7"], env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 7


def test_secrets_are_made_once_for_one_person(tmp_path: Path):
    folder = tmp_path / "secrets"
    made = subprocess.run([DOCKER / "make-secrets", folder], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name for path in folder.iterdir()} == {
        Path(secret["file"]).name for secret in COMPOSE["secrets"].values()
    }
    names = ("postgres-password", "search-password", "mlflow-password", "mlflow-secret-key")
    words = [(folder / name).read_text() for name in names]
    assert len(set(words)) == 4
    assert all(re.fullmatch(r"[A-Za-z0-9]{32}", word) for word in words)
    assert (folder / "pgpass").read_text() == f"*:*:*:search:{words[1]}\n"
    assert (folder / "mlflow-pgpass").read_text() == f"*:*:*:mlflow:{words[2]}\n"
    again = subprocess.run([DOCKER / "make-secrets", folder], capture_output=True, text=True)
    assert again.returncode == 1
    assert "is there already" in again.stderr
    assert (folder / "search-password").read_text() == words[1]


# compose.yaml -------------------------------------------------------------------------------------------------------


def test_nothing_is_published_beyond_this_machine():
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(published) == 2
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert "ports" not in SERVICES["postgres"]
    assert SERVICES["postgres"]["networks"] == ["storage"]
    assert COMPOSE["networks"]["storage"] == {"internal": True}


def test_mlflow_wants_a_login_and_knows_its_names():
    command = SERVICES["mlflow"]["command"]
    assert "--app-name=basic-auth" in command
    (hosts,) = [word.partition("=")[2].split(",") for word in command if word.startswith("--allowed-hosts=")]
    assert "mlflow:5000" in hosts
    assert "*" not in hosts


def test_services_wait_for_each_other_and_can_be_asked_how_they_are():
    for name in ("mlflow", "dashboard", "search", "search-cpu"):
        for other, condition in SERVICES[name]["depends_on"].items():
            assert condition == {"condition": "service_healthy"}
            assert "healthcheck" in SERVICES[other]


def test_a_search_is_run_by_name_with_a_gpu_or_without():
    (device,) = SERVICES["search"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert SERVICES["search-cpu"]["deploy"] == {}
    assert [SERVICES[name]["build"]["target"] for name in ("search", "search-cpu")] == ["gpu", "cpu"]
    same = ("environment", "secrets", "volumes", "networks", "depends_on", "profiles")
    assert all(SERVICES["search-cpu"][key] == SERVICES["search"][key] for key in same)
    assert SERVICES["search"]["profiles"], "`docker compose up` starts the servers only"


def test_passwords_come_from_files_and_only_to_who_needs_them():
    text = (DOCKER / "compose.yaml").read_text()
    assert not re.search(r"://[^/@\s]+:[^/@\s]+@", text)
    for service in SERVICES.values():
        assert not {key for key in service["environment"] if "PASSWORD" in key or "KEY" in key} - {
            "POSTGRES_PASSWORD_FILE",
            "MLFLOW_FLASK_SERVER_SECRET_KEY_FILE",
        }
        for secret in service["secrets"]:
            name = secret["source"] if isinstance(secret, dict) else secret
            assert name in COMPOSE["secrets"]
    assert SERVICES["dashboard"]["secrets"] == ["pgpass"]
    for name, service in SERVICES.items():
        assert service["security_opt"] == ["no-new-privileges:true"]
        if name != "postgres":  # its image begins as root, to give its volume to the user that it then becomes
            assert service["cap_drop"] == ["ALL"]


def test_images_are_named_by_version_and_targets_exist():
    assert re.fullmatch(r"postgres:\d+\.\d+-\w+", SERVICES["postgres"]["image"])
    for name in set(SERVICES) - {"postgres"}:
        assert SERVICES[name]["build"]["target"] in stages()


# Kubernetes and Slurm -----------------------------------------------------------------------------------------------


def test_the_rayjob_is_one():
    jsonschema = pytest.importorskip("jsonschema")
    job, claim = yaml.safe_load_all((DOCKER / "kuberay-rayjob.yaml").read_text())
    schema = json.loads((ROOT / "tests" / "fixtures" / "rayjob.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(job, schema)
    with pytest.raises(jsonschema.ValidationError, match="shutdownAfterJobFinish"):
        jsonschema.validate({**job, "spec": {**job["spec"], "shutdownAfterJobFinish": True}}, schema)
    head, (worker,) = job["spec"]["rayClusterSpec"]["headGroupSpec"], job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    volumes = {volume["name"]: volume for volume in head["template"]["spec"]["volumes"]}
    (on_head,), (on_worker,) = head["template"]["spec"]["containers"], worker["template"]["spec"]["containers"]
    assert {mount["name"] for mount in on_head["volumeMounts"]} == set(volumes)
    assert volumes["work"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert "env" not in on_worker
    assert "volumeMounts" not in on_worker
    assert on_head["image"] == on_worker["image"]


def test_the_rayjob_finds_its_stores_as_the_containers_do():
    job = next(yaml.safe_load_all((DOCKER / "kuberay-rayjob.yaml").read_text()))
    (head,) = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    given = {variable["name"]: variable["value"] for variable in head["env"]}
    of_compose = SERVICES["search"]["environment"]
    assert given["SEARCH_STORAGE"] == of_compose["SEARCH_STORAGE"]
    assert given["SEARCH_TRACKING_URI"] == of_compose["SEARCH_TRACKING_URI"]
    mounts = {mount["mountPath"]: mount.get("subPath") for mount in head["volumeMounts"]}
    assert given["PGPASSFILE"] == "/secrets/pgpass"
    assert mounts["/home/search/.mlflow/credentials"] == "mlflow-credentials"
    assert job["spec"]["entrypoint"].startswith("entrypoint python -m search --engine ray ")


@pytest.mark.skipif("ray" not in ENGINES, reason="the Ray engine is not there yet")
def test_their_searches_have_flags_that_exist():
    job = next(yaml.safe_load_all((DOCKER / "kuberay-rayjob.yaml").read_text()))
    last_line = (DOCKER / "search.sbatch").read_text().splitlines()[-1]
    for command in (job["spec"]["entrypoint"], last_line.removesuffix(' "$@"')):
        words = shlex.split(command.partition("python -m search ")[2])
        with click.Context(cli) as parent:
            params = cli.commands["run"].make_context("run", words, parent=parent).params
        assert (params["engine"], bool(params["address"])) == ("ray", True)


def test_the_batch_script_is_bash():
    script = DOCKER / "search.sbatch"
    subprocess.run(["bash", "-n", script], check=True)
    lines = script.read_text().splitlines()
    directives = [number for number, line in enumerate(lines) if line.startswith("#SBATCH ")]
    first_command = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert max(directives) < first_command, "Slurm reads no directive behind a command"


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("name", ["search.sbatch", "entrypoint", "make-secrets"])
def test_scripts_have_no_known_traps(name: str):
    checked = subprocess.run(["shellcheck", DOCKER / name], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
