"""The container files: linted, and their processes started by hand with the same environment."""

import base64
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import make_url

from tests.support.databases import PASSWORD

ROOT = Path(__file__).parent.parent
COMPOSE = ROOT / "docker" / "compose.yaml"
TOKEN = "sixteen-or-more-characters"
QUICK = ("--images", "160", "--epochs", "3", "--threads", "1", "--trials", "8")


@pytest.fixture
def compose() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return read


@pytest.mark.slow
def test_the_dockerfile_and_the_compose_file_are_without_fault() -> None:
    tools = Path(sys.executable).parent
    for command in (
        ["hadolint", str(ROOT / "docker" / "Dockerfile")],
        ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)],
    ):
        program = tools / command[0]
        done = subprocess.run([program, *command[1:]], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_images_are_pinned_and_run_as_an_ordinary_user(compose: dict[str, Any]) -> None:
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    assert re.findall(r"^FROM (.+)$", dockerfile, re.MULTILINE) == ["python:3.11.14-slim-bookworm"]
    assert re.findall(r"^USER (.+)$", dockerfile, re.MULTILINE) == ["1000"]
    assert re.fullmatch(r"postgres:\d+\.\d+-\w+", compose["services"]["database"]["image"])


def test_only_the_dashboard_is_published_and_only_on_this_machine(compose: dict[str, Any]) -> None:
    published = {name: one["ports"] for name, one in compose["services"].items() if "ports" in one}
    assert published == {"dashboard": ["127.0.0.1:8080:8080"]}


def test_the_password_is_in_a_file_that_git_does_not_take(compose: dict[str, Any]) -> None:
    ignored = subprocess.run(["git", "check-ignore", "docker/.env"], cwd=ROOT, capture_output=True)
    assert ignored.returncode == 0
    secrets = {
        "${POSTGRES_PASSWORD:?put a password into docker/.env}",
        "${DASHBOARD_TOKEN:?put a token into docker/.env}",
    }
    for service in compose["services"].values():
        assert not re.search("PASSWORD|TOKEN", str(service.get("command")))
        for name, value in service["environment"].items():
            if re.search("PASSWORD|TOKEN", name):
                assert value in secrets
    example = (ROOT / "docker" / "example.env").read_text()
    assert re.findall("^([A-Z_]+)=''$", example, re.M) == ["POSTGRES_PASSWORD", "DASHBOARD_TOKEN"]


def _environment(service: dict[str, Any], url: str) -> dict[str, str]:
    """Return the service's environment, with the test's server in the place of its database."""
    assert service["environment"]["SEARCH_STORAGE"] == "postgresql://search@database/search"
    without = make_url(url).set(password=None).render_as_string(hide_password=False)
    here = {"SEARCH_STORAGE": without, "PGPASSWORD": PASSWORD, "SEARCH_DASHBOARD_TOKEN": TOKEN}
    return os.environ | {name: here[name] for name in service["environment"]}


@pytest.mark.slow
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_commands_run_with_the_environment_of_the_compose_file(
    compose: dict[str, Any], url: str, tmp_path: Path
) -> None:
    worker = compose["services"]["worker"]
    entry = [sys.executable, "-m"]  # the Dockerfile's entry point
    assert 'ENTRYPOINT ["python", "-m"]' in (ROOT / "docker" / "Dockerfile").read_text()
    command = [*entry, *worker["command"], *QUICK]
    command[command.index("cifar")] = "digits"
    environment = _environment(worker, url)
    workers = [
        subprocess.Popen(
            [*command, *more], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
        )
        for more in ((), ("--workers", "1"))
    ]
    for process in workers:
        shown, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert "Trials: 8 of 8 finished" in shown
        assert PASSWORD not in shown

    dashboard = compose["services"]["dashboard"]
    command = [{"8080": "0"}.get(word, word) for word in dashboard["command"]]
    with subprocess.Popen(
        [*entry, *command], cwd=tmp_path, env=_environment(dashboard, url),
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            port = re.match(r"http://0\.0\.0\.0:(\d+)/  \(read-only, asks for the token;", line)
            assert port, line
            studies = f"http://127.0.0.1:{port[1]}/api/studies"
            with pytest.raises(urllib.error.HTTPError, match="401") as refused:
                _answer(studies, "")
            refused.value.close()
            assert '"study_name": "digits"' in _answer(studies, TOKEN)
        finally:
            process.terminate()
        assert process.wait(timeout=120) == 143


@pytest.mark.slow
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_container_that_is_stopped_leaves_cleanly(
    compose: dict[str, Any], url: str, tmp_path: Path
) -> None:
    worker = compose["services"]["worker"]
    command = [sys.executable, "-m", *worker["command"], "--images", "160", "--epochs", "500"]
    command[command.index("cifar")] = "digits"
    with subprocess.Popen(
        command, cwd=tmp_path, env=_environment(worker, url), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in iter(process.stdout.readline, ""):
            if "EPOCH" in line:
                break
        process.send_signal(getattr(signal, worker["stop_signal"]))
        rest = process.stdout.read()
        assert process.wait(timeout=120) == 143
    assert worker["stop_grace_period"] == "2m"
    assert "run the same command to resume" in rest


def _answer(address: str, token: str) -> str:
    credentials = base64.b64encode(f"me:{token}".encode()).decode()
    asked = urllib.request.Request(address, headers={"Authorization": f"Basic {credentials}"})
    with urllib.request.urlopen(asked, timeout=120) as answer:
        text: str = answer.read().decode()
        return text
