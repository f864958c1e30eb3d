"""Private keys that a real OpenBao seals: made, verified by other libraries, rotated, and what happens while the store is away.

`tests/service/sealed_keys.rs` has more, with a fake. Here are the answers of the real server, by plain HTTP and TLS.
"""

import re
import signal
import threading
import time

import jwt
import pytest
import requests
from issuers import make_authority, wait_until
from service import ISSUER, ISSUER_512, KIDS
from stores import (
    PAGE,
    SEAL,
    SEAL_KEY,
    SERVE,
    JwtLogin,
    KubernetesLogin,
    Transit,
    Watch,
    Workspace,
    block_of_the_page,
    section_with_login,
    section_with_token,
    succeeded,
)
from verifiers import Refused, jose, pyjwt, tampered

SUB = "user-4711"
THREADS = 4
SEAL_COMMAND = block_of_the_page("console", "tokenmint keys seal")
ROTATE_COMMANDS = block_of_the_page("console", "transit/keys/tokenmint/rotate")
# The service waits this long for a store, in seconds.
REQUEST_TIMEOUT = 5
# keyset -> algorithm, issuer and length of its key in bits.
MATRIX = {
    "web": ("RS256", ISSUER, 2048),
    "web512": ("RS512", ISSUER_512, 4096),
}


@pytest.fixture(scope="module")
def bao(tmp_path_factory):
    store = Transit(tmp_path_factory.mktemp("bao"))
    yield store
    store.resume()
    store.stop()


@pytest.fixture(scope="module")
def sealed(tmp_path_factory, deployment, bao):
    """A workspace with a key that the page's command has sealed. Tests take replicas of it."""
    made = Workspace(deployment.again(tmp_path_factory.mktemp("sealed") / "x"), bao, section_with_token(bao.address))
    succeeded(made.run_as_operator(SEAL_COMMAND))
    return made


@pytest.fixture
def replica(sealed, tmp_path):
    """Makes another host with the same sealed key. `section` is its `[stores.vault]`."""

    def make(section=None, token=None, store=sealed.store, name="replica"):
        section = section or section_with_token(store.address)
        return Workspace(sealed.deployment.again(tmp_path / name), store, section, token)

    return make


def check(workspace):
    return workspace.run("tokenmint check")


def opens(workspace):
    """Whether the store opens the keys: `check` warns neither of the store nor of a key in the clear."""
    checked = check(workspace)
    return checked.returncode == 0 and "warning: keysets." not in checked.stderr


def assert_not_opened(workspace, reason):
    """`check` refuses the file, not only warns."""
    checked = check(workspace)
    assert checked.returncode == 64, checked.stderr
    assert reason in checked.stderr


def assert_mints(service, keyset="web", verifiers=(pyjwt,)):
    """The service mints a token, and other libraries verify it by the JWKS. Returns the token."""
    alg, issuer, _ = MATRIX[keyset]
    token = service.mint("/identity-token", sub=SUB, profile=f"identity.{keyset}")["token"]
    for verify in verifiers:
        for url in (service.jwks_url(keyset), service.jwks_url()):
            assert verify(url, token, alg, issuer, SUB)["sub"] == SUB
    return token


def closed_because(service):
    """The reason why the service isn't ready."""
    answer = requests.get(f"{service.url}/readyz", timeout=10)
    assert answer.status_code == 503, answer.text
    assert answer.json()["status"] == "keys are unavailable"
    return answer.json()["reason"]


def becomes_ready(service):
    """The same process opens the keyset by itself, and mints."""
    wait_until(lambda: service.answers("/readyz"), "the service is ready")
    assert service.process.poll() is None
    assert_mints(service)


def prefix(problem):
    return f"a key of keysets.web isn't opened: store `vault` {problem}"


@pytest.fixture(scope="module")
def algorithms(tmp_path_factory, deployment, bao):
    """A keyset for each algorithm and length: the key of `web` is sealed by `keys seal`, the other is made by `keys new`."""
    folder = tmp_path_factory.mktemp("algorithms") / "x"
    made = Workspace(deployment.again(folder), bao, section_with_token(bao.address), keysets=MATRIX)
    (made.folder / "keys/web512/WebAppKey512.key").unlink()
    succeeded(made.run_as_operator(SEAL_COMMAND))
    succeeded(made.run_as_operator("tokenmint keys new Large --keyset web512 --sealed --bits 4096"))
    return made


@pytest.fixture(scope="module")
def service(algorithms, run_service):
    service = run_service(algorithms.deployment)
    yield service
    service.stop()


class TestAlgorithms:
    def test_no_key_is_in_the_clear(self, algorithms):
        assert opens(algorithms)
        for keyset in MATRIX:
            assert not list((algorithms.folder / "keys" / keyset).glob("*.key"))

    @pytest.mark.parametrize("keyset", MATRIX)
    def test_pyjwt_and_jose_verify_the_tokens_of_a_sealed_key(self, service, keyset):
        alg, issuer, bits = MATRIX[keyset]
        token = assert_mints(service, keyset, (pyjwt, jose))
        assert len(jwt.utils.base64url_decode(token.rpartition(".")[2])) * 8 == bits
        forged = tampered(token, sub="someone-else")
        for verify in (pyjwt, jose):
            with pytest.raises(Refused):
                verify(service.jwks_url(keyset), forged, alg, issuer, "someone-else")


class TestPolicies:
    def test_the_service_needs_no_more_than_the_policy_of_the_page(self, sealed, replica, serve):
        """The token of a replica has only this policy. The sealed file isn't secret."""
        workspace = replica()
        workspace.sealed_key.chmod(0o644)
        assert workspace.key_files() == ["WebAppKey1.key.sealed"]
        assert opens(workspace)
        assert_mints(serve(workspace))

    def test_the_services_token_can_not_seal(self, deployment, bao, tmp_path):
        workspace = Workspace(deployment.again(tmp_path / "x"), bao, section_with_token(bao.address))
        ran = workspace.run(SEAL_COMMAND)
        assert ran.returncode == 1
        assert "the key `WebAppKey1` can't be sealed" in ran.stderr
        assert "store `vault` refuses tokenmint: permission denied" in ran.stderr
        assert workspace.key_files() == ["WebAppKey1.key"]

    def test_a_typing_error_in_seal_key_makes_no_key_in_the_store(self, deployment, bao, tmp_path):
        workspace = Workspace(deployment.again(tmp_path / "x"), bao, section_with_token(bao.address))
        config = workspace.deployment.config
        config.write_text(config.read_text().replace(f'seal_key = "{SEAL_KEY}"', 'seal_key = "tokenmimt"'))
        ran = workspace.run_as_operator(SEAL_COMMAND)
        assert ran.returncode == 1 and "permission denied" in ran.stderr, ran.stderr
        assert bao.request("GET", "transit/keys/tokenmimt").status_code == 404
        assert workspace.key_files() == ["WebAppKey1.key"]

    def test_a_running_service_uses_a_key_that_somebody_with_another_token_seals(self, deployment, bao, tmp_path, serve):
        workspace = Workspace(deployment.again(tmp_path / "x"), bao, section_with_token(bao.address))
        service = serve(workspace)
        before = service.jwks("web")
        said = succeeded(workspace.run_as_operator(SEAL_COMMAND))
        assert f"The service at {workspace.deployment.listen} uses the sealed key." in said
        assert workspace.key_files() == ["WebAppKey1.key.sealed"]
        assert service.jwks("web") == before
        assert_mints(service)

    def test_a_key_that_the_running_service_may_not_open_stays_in_the_clear(self, deployment, bao, tmp_path, serve):
        workspace = Workspace(deployment.again(tmp_path / "x"), bao, section_with_token(bao.address), bao.token("default"))
        service = serve(workspace)
        ran = workspace.run_as_operator(SEAL_COMMAND)
        assert ran.returncode == 1
        assert "keys/web/WebAppKey1.key stays, and keys/web/WebAppKey1.key.sealed is removed again" in ran.stderr, ran.stderr
        assert "store `vault` refuses tokenmint: permission denied" in ran.stderr
        assert (workspace.keys / "WebAppKey1.key").exists()
        assert_mints(service)


@pytest.fixture(scope="module")
def login(bao):
    """A login by JWT that gives tokens of the policy of the service."""
    return JwtLogin(bao, SERVE)


class TestLogins:
    def test_a_jwt_logs_in_and_the_token_is_given_up(self, bao, login, replica, serve):
        workspace = replica(section_with_login(bao.address, "jwt"))
        workspace.give_token(login.token(), "jwt")
        before = bao.tokens()
        assert opens(workspace)
        assert_mints(serve(workspace))
        assert bao.tokens() == before

    def test_an_expired_jwt_at_the_start_is_named_and_a_new_one_opens_the_keyset(self, bao, login, replica, serve):
        workspace = replica(section_with_login(bao.address, "jwt"))
        workspace.give_token(login.token(iat=1_700_000_000, exp=1_700_000_600), "jwt")
        service = serve(workspace, "/livez")
        refused = "refuses tokenmint: the login as `tokenmint` failed: error validating token: invalid expiration time (exp) claim"
        assert closed_because(service).startswith(prefix(refused))
        workspace.give_token(login.token(), "jwt")
        becomes_ready(service)

    def test_openbao_refuses_a_login_at_an_auth_method_that_is_not_mounted(self, bao, login, replica):
        workspace = replica(section_with_login(bao.address, "jwt", auth_mount="nowhere"))
        workspace.give_token(login.token(), "jwt")
        checked = check(workspace)
        assert checked.returncode == 0 and "store `vault` refuses tokenmint: " in checked.stderr, checked.stderr

    def test_a_service_account_logs_in_as_the_page_has_it(self, bao, replica, serve, tmp_path):
        account = KubernetesLogin(bao, SERVE, tmp_path / "cluster")
        try:
            workspace = replica(section_with_login(bao.address, "kubernetes"))
            workspace.give_token(account.token(), "jwt")
            assert opens(workspace)
            account.cluster.accepts = False
            service = serve(workspace, "/livez")
            reason = closed_because(service)
            assert reason.startswith(prefix("refuses tokenmint: ")) and "permission denied" in reason
            account.cluster.accepts = True
            becomes_ready(service)
        finally:
            account.stop()


class TestBinding:
    OTHERS = ("tokenmint/web/WebAppKey2", "tokenmint/crm/WebAppKey1", "tokenmint/web/WebAppKey1/", "")

    @pytest.fixture
    def name(self):
        """The text that the page says the store authenticates, for this key."""
        (text,) = re.findall(r"`(tokenmint/\w+/\w+)`", PAGE.read_text())
        return text.replace("KEYSET", "web").replace("KID", "WebAppKey1")

    def test_the_store_opens_a_sealed_key_with_the_text_of_the_page_and_no_other(self, bao, sealed, name):
        text = sealed.sealed_text()
        assert bao.decrypt(text, name)
        assert [bao.decrypt(text, other) for other in self.OTHERS] == [None] * len(self.OTHERS)

    def test_a_text_that_the_client_bao_sealed_for_another_name_is_refused(self, bao, replica, name):
        workspace = replica()
        plain = bao.decrypt(workspace.sealed_text(), name)
        for other in self.OTHERS:
            workspace.replace_sealed_text(bao.encrypt(plain, other))
            assert_not_opened(workspace, "store `vault` can't decrypt with the key `tokenmint`: cipher: message authentication failed")
        workspace.replace_sealed_text(bao.encrypt(plain, name))
        assert opens(workspace)

    @pytest.mark.parametrize("kind", ["rsa-2048", "rsa-4096", "ed25519"])
    def test_a_sealing_key_without_authenticated_encryption_is_refused(self, bao, deployment, tmp_path, kind):
        workspace = self.workspace_with(bao, deployment, tmp_path, kind)
        ran = workspace.run_as_operator(SEAL_COMMAND)
        assert ran.returncode == 1
        assert "the key `WebAppKey1` can't be sealed" in ran.stderr and "be of type aes256-gcm96" in ran.stderr, ran.stderr
        assert workspace.key_files() == ["WebAppKey1.key"]

    @pytest.mark.parametrize("kind", ["aes128-gcm96", "chacha20-poly1305", "xchacha20-poly1305"])
    def test_each_kind_of_authenticated_encryption_seals(self, bao, deployment, tmp_path, kind):
        workspace = self.workspace_with(bao, deployment, tmp_path, kind)
        succeeded(workspace.run_as_operator(SEAL_COMMAND))
        assert workspace.key_files() == ["WebAppKey1.key.sealed"]
        assert opens(workspace)

    @staticmethod
    def workspace_with(bao, deployment, folder, kind):
        """A workspace whose sealing key is of another type."""
        bao.write(f"transit/keys/{kind}", type=kind)
        policy = "".join(f'path "transit/{verb}/{kind}" {{ capabilities = ["update"] }}\n' for verb in ("encrypt", "decrypt"))
        for name in (SERVE, SEAL):
            bao.write(f"sys/policies/acl/{name}-{kind}", policy=policy)
        token = bao.token(f"{SERVE}-{kind}")
        workspace = Workspace(deployment.again(folder / "x"), bao, section_with_token(bao.address), token)
        config = workspace.deployment.config
        config.write_text(config.read_text().replace(f'seal_key = "{SEAL_KEY}"', f'seal_key = "{kind}"'))
        workspace.operator_token.write_text(bao.token(f"{SEAL}-{kind}"))
        return workspace

    def test_a_new_key_of_a_sealed_keyset_is_in_no_file_in_the_clear(self, bao, replica, tmp_path):
        """Each file that the commands create ends as a sealed key, a certificate or a JWK: none is written and removed."""
        workspace = replica()
        temporary = tmp_path / "tmp"
        temporary.mkdir()
        watch = Watch(workspace.folder, workspace.folder / "keys", workspace.keys, temporary)
        succeeded(workspace.run_as_operator("tokenmint keys rotate --keyset web", TMPDIR=str(temporary)))
        succeeded(workspace.run_as_operator("tokenmint keys new Spare --keyset web --sealed", TMPDIR=str(temporary)))
        created = watch.final_names()
        assert {"WebAppKey2.key.sealed", "Spare.key.sealed"} <= set(created.values())
        assert not [name for name in created.values() if name is None or name.endswith(".key")], created
        for path in workspace.keys.iterdir():
            assert b"PRIVATE KEY" not in path.read_bytes(), path


class TestRotation:
    def test_the_store_rotates_its_key_and_keys_reseal_moves_the_files_to_it(self, bao, deployment, tmp_path, serve):
        """In a namespace, where no other test needs the old version."""
        team = "team-rotation"
        bao.write(f"sys/namespaces/{team}")
        bao.run(block_of_the_page("console", "bao secrets enable"), team)
        section = section_with_token(bao.address, namespace=team)
        workspace = Workspace(deployment.again(tmp_path / "x"), bao, section, bao.token(SERVE, team))
        workspace.operator_token.write_text(bao.token(SEAL, team))
        succeeded(workspace.run_as_operator(SEAL_COMMAND))
        path = workspace.sealed_key
        old = path.read_text()
        assert workspace.sealed_text().startswith("vault:v1:")
        service = serve(workspace)

        rotate, reseal = ROTATE_COMMANDS.strip().splitlines()
        assert reseal.startswith("tokenmint keys reseal")
        succeeded(workspace.run_as_operator(rotate, BAO_NAMESPACE=team))
        assert opens(workspace), "the file of the old version"
        succeeded(workspace.run_as_operator(reseal))
        new = path.read_text()
        assert workspace.sealed_text().startswith("vault:v2:")
        succeeded(workspace.run("tokenmint check --running"))
        assert_mints(service)

        bao.write(f"transit/keys/{SEAL_KEY}/config", team, min_decryption_version=2)
        assert opens(workspace), "the file that was sealed again"
        path.write_text(old)
        refused = "can't decrypt with the key `tokenmint`: ciphertext or signature version is disallowed by policy (too old)"
        assert_not_opened(workspace, f"isn't opened: store `vault` {refused}")
        assert_mints(service)
        path.write_text(new)
        assert opens(workspace)
        service.stop()
        service.start()
        assert_mints(service)

    def test_rewrap_of_the_store_does_not_work(self, bao, sealed):
        answer = bao.request("POST", f"transit/rewrap/{SEAL_KEY}", ciphertext=sealed.sealed_text())
        assert answer.status_code == 400 and "message authentication failed" in answer.text


class TestConnection:
    def test_a_store_with_an_own_certificate_authority_is_trusted_by_ca_file(self, bao, deployment, tmp_path, serve):
        section = section_with_token(bao.tls_address, ca_file=bao.ca_file)
        workspace = Workspace(deployment.again(tmp_path / "x"), bao, section)
        succeeded(workspace.run_as_operator(SEAL_COMMAND))
        assert opens(workspace)
        assert_mints(serve(workspace))

    def test_another_authority_is_named_and_the_right_one_opens_the_keyset(self, bao, replica, tmp_path, serve):
        (tmp_path / "other").mkdir()
        other, _ = make_authority(tmp_path / "other")
        workspace = replica(section_with_token(bao.tls_address, ca_file="ca.pem"))
        ca_file = workspace.folder / "ca.pem"
        ca_file.write_text(other.read_text())
        service = serve(workspace, "/livez")
        reason = closed_because(service)
        assert reason.startswith(prefix("doesn't answer: invalid peer certificate"))
        ca_file.write_text(bao.ca_file.read_text())
        becomes_ready(service)

    def test_the_authorities_of_the_host_do_not_vouch_for_it(self, bao, replica):
        checked = check(replica(section_with_token(bao.tls_address)))
        assert checked.returncode == 0
        assert "store `vault` doesn't answer: invalid peer certificate" in checked.stderr

    def test_a_namespace_that_is_not_there_is_named(self, bao, replica):
        workspace = replica(section_with_token(bao.address, namespace="nobody"))
        assert_not_opened(workspace, "has no transit secrets engine at `transit` (namespace not found): set `mount`")


class TestFaults:
    def test_a_store_that_is_sealed_at_the_start_is_named_and_the_keyset_opens_once_it_is_unsealed(self, bao, replica, serve):
        workspace = replica()
        bao.seal()
        try:
            service = serve(workspace, "/livez")
            assert closed_because(service) == prefix("doesn't answer: Vault is sealed")
            for url in (service.jwks_url("web"), service.jwks_url()):
                assert requests.get(url, timeout=10).status_code == 503
            answer = service.post("/identity-token", {"sub": SUB, "profile": "identity.web"})
            assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")
            # The other keysets work.
            assert [key["kid"] for key in service.jwks("web512")] == [KIDS["web512"]]
            answer = service.post("/identity-token", {"sub": SUB, "profile": "identity.web512"})
            assert answer.status_code == 200, answer.text
            checked = check(workspace)
            assert checked.returncode == 0 and "Vault is sealed" in checked.stderr, checked.stderr
        finally:
            bao.unseal()
        becomes_ready(service)

    def test_a_revoked_token_is_named_and_a_new_one_opens_the_keyset(self, bao, replica, serve):
        token = bao.token(SERVE)
        workspace = replica(token=token)
        bao.revoke(token)
        service = serve(workspace, "/livez")
        assert closed_because(service) == prefix("refuses tokenmint: permission denied, at transit/decrypt/tokenmint")
        workspace.give_token(bao.token(SERVE))
        becomes_ready(service)

    def test_a_quota_is_named_and_the_keyset_opens_once_it_is_gone(self, bao, replica, serve):
        workspace = replica()
        bao.quota("tests", path="transit", rate=1, interval="60s")
        try:
            bao.request("POST", f"transit/decrypt/{SEAL_KEY}", ciphertext="uses the quota up")
            service = serve(workspace, "/livez")
            reason = closed_because(service)
            assert reason.startswith(prefix("asks for fewer requests: request path")) and "quota exceeded" in reason
        finally:
            bao.no_quota("tests")
        becomes_ready(service)

    def test_a_store_that_hangs_delays_the_start_by_its_timeout_only(self, bao, replica, serve):
        workspace = replica()
        began = time.monotonic()
        service = serve(workspace)
        usual = time.monotonic() - began
        service.stop()
        bao.pause()
        try:
            began = time.monotonic()
            service = serve(workspace, "/livez")
            assert time.monotonic() - began < usual + REQUEST_TIMEOUT + 2
            assert closed_because(service) == prefix(f"doesn't answer: not within {REQUEST_TIMEOUT} s")
            assert requests.get(f"{service.url}/livez", timeout=2).status_code == 200
        finally:
            bao.resume()
        becomes_ready(service)

    def test_no_request_fails_while_the_store_is_away_and_a_restart_waits_for_it(self, lasting_bao, deployment, tmp_path, serve):
        section = section_with_token(lasting_bao.address, ca_file=lasting_bao.ca_file)
        workspace = Workspace(deployment.again(tmp_path / "x"), lasting_bao, section)
        succeeded(workspace.run_as_operator(SEAL_COMMAND))
        service = serve(workspace)
        jwks = service.jwks()
        stop = threading.Event()
        outcomes = [[] for _ in range(THREADS)]
        broken = []

        def load(mine):
            headers = {"Authorization": f"Bearer {workspace.deployment.api_key}"}
            body = {"sub": SUB, "profile": "identity.web"}
            try:
                with requests.Session() as session:
                    while not stop.is_set():
                        answer = session.post(f"{service.url}/identity-token", json=body, headers=headers, timeout=10)
                        mine.append(answer.status_code)
            except Exception as error:  # noqa: BLE001 (a thread's exception fails no test by itself)
                broken.append(error)

        def more_are_minted():
            before = [len(mine) for mine in outcomes]
            enough = lambda: broken or all(len(mine) >= at + 20 for mine, at in zip(outcomes, before, strict=True))  # noqa: E731
            wait_until(enough, "each thread mints 20 more tokens")

        threads = [threading.Thread(target=load, args=(mine,)) for mine in outcomes]
        for thread in threads:
            thread.start()
        try:
            more_are_minted()
            lasting_bao.kill()
            more_are_minted()
            reloads = service.log.read_text().count('"reloaded"')
            service.process.send_signal(signal.SIGHUP)
            wait_until(lambda: service.log.read_text().count('"reloaded"') > reloads, "the service has reloaded")
            more_are_minted()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert not broken
        assert {status for mine in outcomes for status in mine} == {200}
        assert service.answers("/readyz")
        assert service.jwks() == jwks
        assert_mints(service)

        service.stop()
        service.start("/livez")
        assert closed_because(service).startswith(prefix("doesn't answer: Connection refused"))
        lasting_bao.restart()
        lasting_bao.wait_for_status(503)
        lasting_bao.unseal()
        becomes_ready(service)
