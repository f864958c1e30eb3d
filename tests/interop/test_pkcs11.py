"""Private keys that real PKCS#11 tokens seal or keep: made, verified by another library, and what happens if the module or the PIN is wrong."""

import re
import shutil
import signal
import time

import pytest
import requests
from issuers import wait_until
from pkcs11 import (
    DEVICE_REMOVED,
    GENERAL_ERROR,
    MODULE,
    PAGE,
    PIN,
    SEAL_KEY,
    SESSION_HANDLE_INVALID,
    TOKEN,
    Faults,
    HsmWorkspace,
    SoftHsm,
    Tpm,
)
from service import ISSUER
from stores import block_of_the_page
from verifiers import pyjwt

SUB = "user-4711"
SEAL_COMMAND = block_of_the_page("console", "tokenmint keys seal", PAGE)
NEW_COMMAND = block_of_the_page("console", "tokenmint keys new", PAGE)
REMOTE_KID = "WebHsmKey1"
# The service waits this long for a module, in seconds.
CALL_TIMEOUT = 5


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A token that is set up. Tests take copies of it."""
    return SoftHsm(tmp_path_factory.mktemp("hsm") / "token")


@pytest.fixture
def hsm(original, tmp_path, monkeypatch):
    """A token of this test alone. The commands and services that it starts find it by their environment."""
    copy = SoftHsm.__new__(SoftHsm)
    copy.folder = tmp_path / "hsm"
    shutil.copytree(original.folder, copy.folder)
    config = copy.folder / "softhsm2.conf"
    config.write_text(config.read_text().replace(str(original.folder), str(copy.folder)))
    copy.settings = {"SOFTHSM2_CONF": str(config)}
    for name, value in copy.settings.items():
        monkeypatch.setenv(name, value)
    return copy


@pytest.fixture
def faults(tmp_path, monkeypatch):
    made = Faults(tmp_path / "faults")
    for name, value in made.settings.items():
        monkeypatch.setenv(name, value)
    yield made
    made.go_on()


@pytest.fixture
def workspace(hsm, deployment, tmp_path):
    return HsmWorkspace(deployment.again(tmp_path / "x"))


@pytest.fixture
def sealed(workspace):
    succeeded(workspace.run(SEAL_COMMAND))
    return workspace


@pytest.fixture
def faulty(sealed, faults):
    """The same sealed key, opened by the module that fails."""
    sealed.configure(module=faults.module)
    return sealed


@pytest.fixture
def remote(hsm, deployment, tmp_path):
    """A workspace whose only key of `web` is one that the token has made."""
    made = HsmWorkspace(deployment.again(tmp_path / "x"), "signed_by")
    for path in made.keys.iterdir():
        path.unlink()
    succeeded(made.run(NEW_COMMAND))
    return made


@pytest.fixture
def tpm(tmp_path, monkeypatch):
    made = Tpm(tmp_path / "tpm")
    for name, value in made.settings.items():
        monkeypatch.setenv(name, value)
    yield made
    made.stop()


@pytest.fixture
def serve(run_service):
    """Starts the service of a workspace, and stops it after the test. It must end well."""
    started = []

    def start(workspace, probe="/readyz"):
        started.append(run_service(workspace.deployment, probe))
        return started[-1]

    yield start
    for service in started:
        print(f"tokenmint's log, its end:\n{service.log_tail()}")
        if service.process.poll() is None:
            service.stop()


def succeeded(ran):
    assert ran.returncode == 0, f"{ran.args}\n{ran.stdout}{ran.stderr}"
    return ran.stdout


def opens(workspace):
    """Whether the token opens the keys, or signs with them: `check` has no warning of that."""
    checked = workspace.run("tokenmint check")
    return checked.returncode == 0 and "isn't opened" not in checked.stderr and "can't sign with" not in checked.stderr


def refusal(workspace):
    """What `check` says of a store that can't be used as configured."""
    checked = workspace.run("tokenmint check")
    assert checked.returncode == 64, checked.stderr
    return checked.stderr


def assert_mints(service):
    token = service.mint("/identity-token", sub=SUB, profile="identity.web")["token"]
    assert pyjwt(service.jwks_url("web"), token, "RS256", ISSUER, SUB)["sub"] == SUB


def closed_because(service):
    answer = requests.get(f"{service.url}/readyz", timeout=10)
    assert (answer.status_code, answer.json()["status"]) == (503, "keys are unavailable"), answer.text
    return answer.json()["reason"]


def becomes_ready(service):
    wait_until(lambda: service.answers("/readyz"), "the service is ready")
    assert_mints(service)


class TestSealing:
    def test_a_key_that_an_aes_key_seals_signs_and_is_in_no_file(self, sealed, serve):
        assert [path.name for path in sealed.keys.iterdir() if not path.name.startswith(".")] == ["WebAppKey1.key.sealed"]
        assert re.search(r'"data_key": "pkcs11:gcm:[A-Za-z0-9+/=]+"', sealed.sealed_key.read_text())
        assert opens(sealed)
        assert_mints(serve(sealed))

    def test_an_rsa_key_seals_where_the_token_has_no_aes_key(self, hsm, workspace, serve):
        hsm.make_rsa_key("wrapping")
        workspace.configure(seal_key="wrapping")
        succeeded(workspace.run(SEAL_COMMAND))
        assert '"data_key": "pkcs11:oaep:' in workspace.sealed_key.read_text()
        assert opens(workspace)
        assert_mints(serve(workspace))
        # Everybody can seal with the public key. So its texts don't count where an AES key is meant.
        hsm.make_aes_key("wrapping")
        assert "didn't seal this data key with its key `wrapping`" in refusal(workspace)

    def test_a_running_service_uses_a_key_that_is_sealed_meanwhile(self, workspace, serve):
        service = serve(workspace)
        before = service.jwks("web")
        assert "uses the sealed key" in succeeded(workspace.run(SEAL_COMMAND))
        assert service.jwks("web") == before
        assert_mints(service)

    def test_the_token_opens_it_for_no_other_key_id(self, sealed):
        """Also if the file says another one: the token has authenticated it."""
        moved = sealed.keys / "Other.key.sealed"
        sealed.sealed_key.rename(moved)
        assert "is sealed for the key `WebAppKey1` of the keyset `web`" in refusal(sealed)
        moved.write_text(moved.read_text().replace('"WebAppKey1"', '"Other"'))
        assert "store `hsm` can't decrypt it (C_Decrypt returned GeneralError): it was changed" in refusal(sealed)

    def test_a_changed_text_does_not_open(self, sealed):
        text = sealed.sealed_key.read_text()
        for start in ("pkcs11:gcm:AAAA", "pkcs11:gcm:"):
            sealed.sealed_key.write_text(re.sub(r"pkcs11:gcm:.{4}", start, text))
            said = refusal(sealed)
            assert "can't decrypt it" in said or "didn't seal this data key" in said, said
        sealed.sealed_key.write_text(text.replace("pkcs11:gcm:", "vault:v1:"))
        assert "store `hsm` didn't seal this data key" in refusal(sealed)
        sealed.sealed_key.write_text(text)
        assert opens(sealed)

    def test_a_token_that_was_made_anew_does_not_open_it(self, hsm, sealed):
        hsm.tool(f"--delete-object --type secrkey --label {SEAL_KEY}")
        assert f"has no key `{SEAL_KEY}` that seals" in refusal(sealed)
        hsm.make_aes_key(SEAL_KEY)
        assert "can't decrypt it" in refusal(sealed)


class TestConfiguration:
    def test_a_wrong_pin_is_named_and_tried_once(self, hsm, faulty, faults, serve):
        faulty.give_pin("9999\n")
        service = serve(faulty, "/livez")
        reason = closed_because(service)
        assert "store `hsm` refuses tokenmint: the token `tokenmint` doesn't accept the PIN in `pin_file`" in reason
        assert "hsm-pin" in reason and "PinIncorrect" in reason
        wait_until(lambda: "it refused it before" in closed_because(service), "the service has loaded again")
        assert faults.logins() == 1
        faulty.give_pin(PIN)
        becomes_ready(service)
        assert faults.logins() == 2

    def test_a_wrong_pin_is_a_warning_of_check(self, sealed):
        sealed.give_pin("9999")
        checked = sealed.run("tokenmint check")
        assert checked.returncode == 0 and "doesn't accept the PIN in `pin_file`" in checked.stderr

    def test_a_pin_file_that_is_missing_or_empty_is_named(self, sealed):
        sealed.give_pin("\n")
        assert "`pin_file`" in (said := refusal(sealed)) and "is empty" in said
        (sealed.folder / "hsm-pin").unlink()
        assert "`pin_file`" in (said := refusal(sealed)) and "can't be opened" in said

    def test_a_module_that_is_missing_is_named(self, sealed):
        sealed.configure(module="/usr/lib/no-module.so")
        said = refusal(sealed)
        assert "store `hsm` `module`" in said and "can't be opened: No such file" in said

    def test_a_file_that_is_no_module_is_named(self, sealed):
        sealed.configure(module=sealed.deployment.config)
        assert "isn't a PKCS#11 module that can be loaded" in refusal(sealed)

    def test_a_wrong_label_lists_the_tokens(self, hsm, sealed):
        hsm.initialize("spare")
        sealed.configure(token_label="tokenmimt")
        said = refusal(sealed)
        listed = re.search(r"has no token `tokenmimt`, but (.*): set `token_label`", said)[1]
        assert sorted(listed.split(", ")) == ["`spare`", f"`{TOKEN}`"]

    def test_labels_that_are_there_twice_are_refused(self, hsm, sealed):
        hsm.make_aes_key(SEAL_KEY)
        assert f"has 2 keys `{SEAL_KEY}`" in refusal(sealed)
        hsm.initialize(TOKEN)
        assert f"has 2 tokens `{TOKEN}`" in refusal(sealed)

    def test_a_module_without_its_own_configuration_is_unavailable(self, sealed, monkeypatch):
        monkeypatch.setenv("SOFTHSM2_CONF", str(sealed.folder / "nothing"))
        checked = sealed.run("tokenmint check")
        assert checked.returncode == 0
        assert "store `hsm` doesn't answer: C_Initialize returned GeneralError" in checked.stderr

    def test_keys_of_the_other_kind_are_refused(self, sealed):
        config = sealed.deployment.config
        config.write_text(config.read_text() + 'mount = "transit"\n')
        assert "is for stores of kind `vault`, and this one is `pkcs11`" in refusal(sealed)


class TestSigning:
    def test_a_key_of_the_token_signs_and_can_not_be_extracted(self, hsm, remote, serve):
        objects = hsm.tool("--list-objects --type privkey")
        assert f"label:      {REMOTE_KID}" in objects
        assert "sensitive, always sensitive, never extractable, local" in objects
        assert not [path for path in remote.keys.rglob("*") if path.is_file() and "PRIVATE KEY" in path.read_text()]
        assert opens(remote)
        service = serve(remote)
        assert [key["kid"] for key in service.jwks("web")] == [REMOTE_KID]
        for _ in range(20):
            assert_mints(service)

    def test_another_algorithm_is_signed_too(self, remote, serve):
        config = remote.deployment.config
        config.write_text(config.read_text().replace('algorithm = "RS256"', 'algorithm = "RS512"'))
        service = serve(remote)
        token = service.mint("/identity-token", sub=SUB, profile="identity.web")["token"]
        assert pyjwt(service.jwks_url("web"), token, "RS512", ISSUER, SUB)["sub"] == SUB

    def test_a_key_that_the_token_has_already_is_used_by_its_label_only(self, hsm, remote):
        (remote.keys / "keyset.toml").unlink()
        for path in remote.keys.glob(f"{REMOTE_KID}.*"):
            path.unlink()
        again = remote.run(NEW_COMMAND)
        assert again.returncode == 1 and f"has a key `{REMOTE_KID}` already" in again.stderr, again.stderr
        wrong = remote.run(f"tokenmint keys new Other --keyset web --remote-key {REMOTE_KID}:1")
        assert wrong.returncode == 1 and "has no versions of keys" in wrong.stderr, wrong.stderr
        succeeded(remote.run(f"tokenmint keys new Other --keyset web --remote-key {REMOTE_KID}"))
        assert opens(remote)

    def test_a_missing_key_is_named(self, hsm, remote):
        hsm.tool(f"--delete-object --type privkey --label {REMOTE_KID}")
        assert f"has no private RSA key `{REMOTE_KID}`" in refusal(remote)

    @pytest.mark.parametrize("code", [SESSION_HANDLE_INVALID, DEVICE_REMOVED, GENERAL_ERROR])
    def test_a_lost_session_costs_no_request(self, remote, faults, serve, code):
        remote.configure(module=faults.module)
        service = serve(remote)
        assert_mints(service)
        faults.fail_once(code)
        assert_mints(service)
        assert faults.has_failed()

    def test_a_module_that_hangs_costs_503_and_signs_again_when_it_returns(self, remote, faults, serve):
        remote.configure(module=faults.module)
        service = serve(remote)
        assert_mints(service)
        faults.hang()
        for _ in range(6):
            began = time.monotonic()
            answer = service.post("/identity-token", {"sub": f"{SUB}-{began}", "profile": "identity.web"})
            assert answer.status_code == 503 and int(answer.headers["Retry-After"]) >= 1, answer.text
            assert time.monotonic() - began < 4
        assert requests.get(f"{service.url}/livez", timeout=2).status_code == 200
        faults.go_on()

        def signs():
            answer = service.post("/identity-token", {"sub": SUB, "profile": "identity.web"})
            return answer.status_code == 200

        wait_until(signs, "the token signs again")
        assert_mints(service)


class TestTpm:
    def test_a_tpm_seals_with_an_rsa_key_and_keeps_no_object_of_a_command(self, tpm, deployment, tmp_path, serve):
        workspace = HsmWorkspace(deployment.again(tmp_path / "x"))
        workspace.configure(module=tpm.module)
        succeeded(workspace.run(SEAL_COMMAND))
        assert '"data_key": "pkcs11:oaep:' in workspace.sealed_key.read_text()
        for _ in range(4):
            assert opens(workspace)
        assert not tpm.objects()
        service = serve(workspace)
        assert_mints(service)
        service.stop()
        assert not tpm.objects()

    def test_a_key_of_the_tpm_signs_also_after_the_tpm_was_away(self, tpm, deployment, tmp_path, serve):
        workspace = HsmWorkspace(deployment.again(tmp_path / "x"), "signed_by")
        workspace.configure(module=tpm.module)
        for path in workspace.keys.iterdir():
            path.unlink()
        succeeded(workspace.run(NEW_COMMAND))
        service = serve(workspace)
        assert_mints(service)
        tpm.stop()
        body = {"sub": "somebody-else", "profile": "identity.web"}
        assert service.post("/identity-token", body).status_code == 503
        tpm.start()
        wait_until(lambda: service.post("/identity-token", body).status_code == 200, "the TPM signs again")
        assert_mints(service)


class TestFaults:
    @pytest.mark.parametrize("code", [SESSION_HANDLE_INVALID, DEVICE_REMOVED, GENERAL_ERROR])
    def test_a_lost_session_is_replaced_once(self, faulty, faults, code):
        faults.fail_once(code)
        assert opens(faulty)
        assert faults.has_failed() and faults.logins() == 2

    def test_a_module_that_hangs_delays_the_start_by_its_timeout_and_no_stop(self, faulty, faults, serve):
        service = serve(faulty)
        service.stop()
        faults.hang()
        began = time.monotonic()
        service = serve(faulty, "/livez")
        assert time.monotonic() - began < CALL_TIMEOUT + 4
        assert f"didn't return within {CALL_TIMEOUT} s" in closed_because(service)
        wait_until(lambda: "hasn't returned from a call for" in closed_because(service), "the service has loaded again")
        faults.go_on()
        becomes_ready(service)
        service.stop()
        faults.hang()
        service = serve(faulty, "/livez")
        began = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(timeout=20) == 0
        assert time.monotonic() - began < CALL_TIMEOUT

    def test_the_service_mints_while_the_module_hangs_and_a_reload_keeps_its_keys(self, faulty, faults, serve):
        service = serve(faulty)
        faults.hang()
        reloads = service.log.read_text().count('"reloaded"')
        service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: service.log.read_text().count('"reloaded"') > reloads, "the service has reloaded")
        assert_mints(service)

    def test_a_token_that_is_gone_costs_no_key_in_memory(self, hsm, sealed, serve):
        service = serve(sealed)
        (hsm.folder / "tokens").rename(hsm.folder / "away")
        assert_mints(service)
        service.stop()
        service.start("/livez")
        assert "store `hsm`" in closed_because(service)
        (hsm.folder / "away").rename(hsm.folder / "tokens")
        becomes_ready(service)


def test_the_module_of_the_page_is_debians():
    assert MODULE in block_of_the_page("toml", "sealed_by", PAGE)
