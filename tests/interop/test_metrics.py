"""/metrics as Prometheus's own promtool reads it."""

import subprocess

import requests
from service import TOOLS


def test_promtool_finds_no_fault_and_no_subject_is_a_label(service):
    # Each kind once, and one refusal, so that the counters and histograms which need a label are there to be checked.
    service.mint("/identity-token", sub="subject-of-the-metrics-test", profile="identity.web")
    service.mint("/oauth-assertion", profile="oauth.crm")
    service.mint("/intercom-user-jwt", user_id="subject-of-the-metrics-test", profile="intercom.fin")
    service.post("/identity-token", {})

    answer = requests.get(f"{service.url}/metrics", timeout=10)
    assert answer.status_code == 200
    assert "\ntokenmint_" in answer.text
    assert "subject-of-the-metrics-test" not in answer.text

    command = [TOOLS / "bin" / "promtool", "check", "metrics"]
    said = subprocess.run(command, input=answer.content, capture_output=True, timeout=60)
    assert (said.returncode, said.stdout, said.stderr) == (0, b"", b"")
