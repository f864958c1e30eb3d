"""docs/operating.md: every `sh` block runs, in order, in one shell; what the other blocks name is there."""

import re
import subprocess

import pytest
import yaml
from alerts import CASES
from service import REPO, environment
from test_kubernetes import faults_of

PAGE = REPO / "docs" / "operating.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def followed(installed, binary, tmp_path_factory):
    """The folder of an operator who did all that the page says, and what their terminal showed."""
    folder = tmp_path_factory.mktemp("operator")
    (folder / "deploy").symlink_to(REPO / "deploy")
    (folder / "bin").mkdir()
    (folder / "bin" / "tokenmint").symlink_to(binary)
    blocks = [text for language, text in BLOCKS if language == "sh"]
    script = "\n".join(f": step {number}\n{text}" for number, text in enumerate(blocks, 1))
    # A network of its own: the page's ports are whoever's else. And processes: what a failed step left behind ends
    # too. `-x` says how far it came.
    shell = ["unshare", "--net", "--pid", "--fork", "--kill-child", "bash", "-euxo", "pipefail", "-c"]
    shell.append(f"ip link set lo up\n{script}\n: all done")
    path = f"{folder / 'bin'}:{installed / 'bin'}:{environment()['PATH']}"
    ran = subprocess.run(
        shell,
        cwd=folder,
        env=environment() | {"PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        errors="replace",
    )
    last = "\n".join(ran.stderr.splitlines()[-25:])
    assert ran.returncode == 0 and "all done" in last, f"{last}\n{ran.stdout[-2000:]}"
    return folder, ran.stdout


def test_every_step_can_be_taken(followed):
    folder, shown = followed
    assert "signatures a second and core" in shown and "rsa  2048" in shown.replace("rsa 2048", "rsa  2048")
    assert "minted" in (folder / "tokenmint.log").read_text()


def test_the_rules_become_a_prometheusrule_that_the_operator_takes(followed, installed):
    folder, _ = followed
    rule = yaml.safe_load((folder / "prometheusrule.yaml").read_text())
    rules = yaml.safe_load((REPO / "deploy" / "prometheus" / "tokenmint.rules.yaml").read_text())
    assert rule["spec"] == rules
    assert faults_of([rule], installed) == ""


def test_what_the_blocks_and_links_name_is_there():
    for _, text in BLOCKS:
        for path in re.findall(r"\bdeploy/[\w./-]+", text):
            assert (REPO / path).exists(), path
    for target in re.findall(r"\]\((?!http)([^)#]+)", PAGE.read_text()):
        assert (PAGE.parent / target).exists(), target


def test_the_console_blocks_commands_exist(binary):
    """tokenmint's own, in the blocks that a test can't run."""
    for language, text in BLOCKS:
        for line in re.findall(r"^tokenmint (.+)$", text, re.MULTILINE) if language == "console" else []:
            words = line.split()
            helped = subprocess.run([binary, words[0], "--help"], capture_output=True, text=True, env=environment())
            assert helped.returncode == 0, line
            for option in [word for word in words if word.startswith("--")]:
                assert option in helped.stdout, line


def test_every_runbook_is_reached_from_an_alert():
    headings = re.findall(r"^### (.+)$", PAGE.read_text(), re.MULTILINE)
    rules = (REPO / "deploy" / "prometheus" / "tokenmint.rules.yaml").read_text()
    for heading in headings:
        assert re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") in rules, heading
    assert len(CASES) > len(headings)
