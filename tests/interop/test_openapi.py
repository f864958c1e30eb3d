"""openapi.yaml: sound by Redocly's rules, the same wherever it is found, and true by Schemathesis's trial."""

import subprocess

import pytest
import requests
from service import HERE, REPO, TOOLS, environment


@pytest.fixture(scope="module")
def served(service):
    answer = requests.get(f"{service.url}/openapi.yaml", timeout=10)
    assert answer.status_code == 200
    return answer.content


def assert_quiet_end(command, cwd, settings=None):
    ran = subprocess.run(
        command, cwd=cwd, env=environment() | (settings or {}), capture_output=True, text=True, timeout=150
    )
    # The end, where both tools sum up: pytest would cut it off.
    assert ran.returncode == 0, "\n".join((ran.stdout + ran.stderr).splitlines()[-150:])


def test_it_is_the_same_from_the_service_the_command_line_and_the_repository(service, served):
    assert served == service.run("openapi")
    assert served == (REPO / "openapi.yaml").read_bytes()


def test_redocly_finds_no_error(served, tmp_path):
    (tmp_path / "openapi.yaml").write_bytes(served)
    command = ["node", TOOLS / "node/node_modules/@redocly/cli/bin/cli.js", "lint", "openapi.yaml"]
    # It would ask for a newer version of itself, and report that it ran.
    silence = {"REDOCLY_SUPPRESS_UPDATE_NOTICE": "true", "REDOCLY_TELEMETRY": "off"}
    assert_quiet_end([*command, "--extends", "recommended", "--format", "stylish"], tmp_path, silence)


def test_schemathesis_finds_no_difference_between_it_and_the_service(service, deployment, served, tmp_path):
    (tmp_path / "openapi.yaml").write_bytes(served)
    command = [TOOLS / "venv/bin/schemathesis", "--config-file", HERE / "schemathesis.toml", "run", "openapi.yaml"]
    command += ["--url", service.url, "--header", f"Authorization: Bearer {deployment.one_of_each_key}"]
    settings = {"SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(HERE)}
    assert_quiet_end([*command, "--no-color"], tmp_path, settings | {"COLUMNS": "120"})
