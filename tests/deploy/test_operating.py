"""docs/operate: every `sh` block runs; what the other blocks name is there."""

import re
import subprocess

import pytest
import yaml
from alerts import CASES
from service import PATIENT_GREP, REPO, environment
from test_kubernetes import faults_of

PAGES = REPO / "docs" / "operate"
# In one shell, in this order: index.md starts the service, and runbooks.md stops it.
TOGETHER = ["index", "reload", "rotation", "monitoring", "access-tokens", "backup", "upgrade", "runbooks"]
WORKLOADS = [f"workload-{name}" for name in ["identity", "kubernetes", "github-actions", "aws", "google", "spiffe"]]
# tests/interop runs what sealed-keys.md, remote-signing.md, pkcs11.md and aws-kms.md describe, with real stores.
STORES = ["sealed-keys", "remote-signing", "pkcs11", "aws-kms"]
ALONE = ["docker", "compose", "kubernetes", "systemd", *STORES, *WORKLOADS]
RUNBOOKS = PAGES / "runbooks.md"


def blocks(page):
    return re.findall(r"^ *```(\w+)\n(.*?)^ *```$", (PAGES / f"{page}.md").read_text(), re.MULTILINE | re.DOTALL)


def of(page, language):
    return [text for written, text in blocks(page) if written == language]


def text_of(page, language):
    return "\n".join(of(page, language))


def test_every_page_is_run():
    assert {page.stem for page in PAGES.glob("*.md")} == {*TOGETHER, *ALONE}


def follow(folder, pages, installed, binary):
    """The `sh` blocks of the pages, in one shell; what it printed."""
    (folder / "deploy").symlink_to(REPO / "deploy")
    (folder / "bin").mkdir()
    (folder / "bin" / "tokenmint").symlink_to(binary)
    steps = [f": {page}, step {number}\n{text}" for page in pages for number, text in enumerate(of(page, "sh"), 1)]
    script = "\n".join(steps)
    # A network of its own: the pages' ports are whoever's else. And processes: what a failed step left behind ends
    # too. `-x` says how far it came.
    shell = ["unshare", "--net", "--pid", "--fork", "--kill-child", "bash", "-euxo", "pipefail", "-c"]
    shell.append(f"ip link set lo up\n{PATIENT_GREP}\n{script}\n: all done")
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
    return ran.stdout


@pytest.fixture(scope="module")
def followed(installed, binary, tmp_path_factory):
    """The folder of an operator who did all that the pages say, and what their terminal showed."""
    folder = tmp_path_factory.mktemp("operator")
    return folder, follow(folder, TOGETHER, installed, binary)


def test_every_step_can_be_taken(followed):
    folder, shown = followed
    assert "signatures a second and core" in shown and "rsa  2048" in shown.replace("rsa 2048", "rsa  2048")
    assert "minted" in (folder / "tokenmint.log").read_text()


@pytest.mark.parametrize("page", ALONE)
def test_every_step_on_a_platform_can_be_taken(page, installed, binary, tmp_path):
    follow(tmp_path, [page], installed, binary)
    if page == "kubernetes":
        # Nothing of the example is left to change, except what the page doesn't say.
        rendered = (tmp_path / "rendered.yaml").read_text()
        assert "tokens.example.com" in rendered and "acme" not in rendered and "0" * 64 not in rendered
        assert "image: registry.example.com/tokenmint:0.1.0" in rendered
        production = (tmp_path / "production.yaml").read_text()
        assert "tokens.example.com" in production and "acme" not in production


def test_the_rules_become_a_prometheusrule_that_the_operator_takes(followed, installed):
    folder, _ = followed
    rule = yaml.safe_load((folder / "prometheusrule.yaml").read_text())
    rules = yaml.safe_load((REPO / "deploy" / "prometheus" / "tokenmint.rules.yaml").read_text())
    assert rule["spec"] == rules
    assert faults_of([rule], installed) == ""


@pytest.mark.parametrize("page", [*TOGETHER, *ALONE])
def test_what_the_blocks_and_links_name_is_there(page):
    for _, text in blocks(page):
        for path in re.findall(r"\bdeploy/[\w./-]+", text):
            assert (REPO / path).exists(), path
        # The copy that kubernetes.md makes.
        for path in re.findall(r"(?<![\w/])kubernetes/[\w./-]+", text):
            assert (REPO / "deploy" / path).exists(), path
    for target in re.findall(r"\]\((?!http)([^)#]+)", (PAGES / f"{page}.md").read_text()):
        assert (PAGES / target).exists(), target


@pytest.mark.parametrize("page", [*TOGETHER, *ALONE])
def test_the_console_blocks_commands_exist(page, binary):
    """tokenmint's own, in the blocks that a test can't run, also behind sudo, a pipe or an image's tag."""

    def help_of(*command):
        return subprocess.run([binary, *command, "--help"], capture_output=True, text=True, check=True, env=environment()).stdout

    commands = re.findall(r"^  ([a-z][a-z-]+) ", help_of(), re.MULTILINE)
    assert {"check", "keys", "salesforce-metadata"} <= set(commands)
    for line in re.findall(rf"\btokenmint(?::NEXT)? ((?:{'|'.join(commands)})\b.*)", text_of(page, "console")):
        words = re.split(r" [|<>] ", line)[0].split()
        shown = help_of(*(words[:2] if words[0] in {"keys", "callers"} else words[:1]))
        for option in [word for word in words if word.startswith("--")]:
            assert option in shown, line


def test_every_alert_leads_to_a_runbook_that_names_it():
    sections = re.split(r"^## (.+)$", RUNBOOKS.read_text(), flags=re.MULTILINE)[1:]
    sections = {anchor(heading): text for heading, text in zip(sections[::2], sections[1::2], strict=True)}
    rules = yaml.safe_load((REPO / "deploy" / "prometheus" / "tokenmint.rules.yaml").read_text())
    reached = set()
    for rule in [rule for group in rules["groups"] for rule in group["rules"]]:
        page, _, at = rule["annotations"]["runbook"].partition("#")
        assert REPO / page == RUNBOOKS, rule["alert"]
        assert f"`{rule['alert']}`" in sections[at].strip().splitlines()[0], rule["alert"]
        reached.add(at)
    assert set(sections) - reached == {"stop-the-service"}
    assert len(CASES) > len(sections)


def anchor(heading):
    return re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
