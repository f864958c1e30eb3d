"""Keys that a real OpenBao has and signs with: other libraries verify the tokens, rotations, logins that expire, and what happens while the
store is in trouble.

`tests/service/remote_keys.rs` has more, with a fake. Here are the answers of the real server, by plain HTTP and TLS.
"""

import asyncio
import base64
import concurrent.futures
import contextlib
import re
import signal
import ssl
import statistics
import threading
import time

import jwt
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from issuers import wait_until
from service import CONSUMER_KEY, ISSUER, ISSUER_512, KIDS, USERNAME
from stores import (
    SIGN,
    JwtLogin,
    KubernetesLogin,
    RemoteWorkspace,
    Transit,
    section_with_login,
    section_with_token,
    succeeded,
)
from tls_front import TlsFront
from verifiers import Refused, jose, pyjwt, tampered

SUB = "user-4711"
KID = KIDS["crm"]
# The longest time of a signature: two logins of 2 s, two attempts of 1 s, and 1 s in the queue.
SLOWEST_ANSWER = 8
# JWKS and /livez, in seconds. The debug build answers on a busy machine; a request that waits for the store takes a second or more.
FAST = 0.5
# keyset -> algorithm, issuer, length of its key in bits and the profile that it signs for.
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
def remote(tmp_path_factory, deployment, bao):
    """A workspace whose key the command has made in the store. Tests take replicas of it."""
    made = RemoteWorkspace(deployment.again(tmp_path_factory.mktemp("remote") / "x"), bao, section_with_token(bao.address))
    succeeded(made.run_as_operator(f"tokenmint keys new {KID} --remote --keyset crm"))
    return made


@pytest.fixture
def replica(remote, tmp_path):
    """Makes another host with the same key of the store. `section` is its `[stores.vault]`."""

    def make(section=None, token=None, name="replica"):
        section = section or section_with_token(remote.store.address)
        return RemoteWorkspace(remote.deployment.again(tmp_path / name), remote.store, section, token)

    return make


@pytest.fixture
def workspace_with(bao, deployment, tmp_path):
    """Makes a host with a key of its own in the store, so that the test may change that key. Returns it and the key's name."""

    def make(name):
        bao.write(f"transit/keys/{name}", type="rsa-2048")
        workspace = RemoteWorkspace(deployment.again(tmp_path / name), bao, section_with_token(bao.address))
        workspace.list_key(KID, f"{name}:1")
        return workspace

    return make


def kid_that_signs(service):
    """The service mints an assertion, and PyJWT verifies it by the JWKS. Returns the `kid`."""
    token = service.mint("/oauth-assertion", profile="oauth.crm")["assertion"]
    for url in (service.jwks_url("crm"), service.jwks_url()):
        assert pyjwt(url, token, "RS256", CONSUMER_KEY, USERNAME)["iss"] == CONSUMER_KEY
    return jwt.get_unverified_header(token)["kid"]


def assertion(service):
    return service.post("/oauth-assertion", {"profile": "oauth.crm"})


def assert_unavailable(answer):
    """503 with a time to wait, and not a hint of what the store said."""
    assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable"), answer.text
    assert 1 <= int(answer.headers["Retry-After"]) <= 5


def assert_others_go_on(service):
    """The keys in files sign, and all JWKS are there."""
    assert service.mint("/identity-token", sub=SUB, profile="identity.web")["token"]
    assert [key["kid"] for key in service.jwks("crm")] == [KID]
    assert {key["kid"] for key in service.jwks()} == set(KIDS.values())
    assert service.answers("/readyz")


def signs_again(service):
    """The same process signs again by itself. `wait_until` waits 30 s."""
    wait_until(lambda: assertion(service).status_code == 200, "the service signs again")
    assert service.process.poll() is None
    assert kid_that_signs(service) == KID


def log_has(service, text):
    wait_until(lambda: text in service.log.read_text(), f"the log has: {text}")


def requests_to_the_store(service, operation, outcome="success"):
    """How many requests the service has sent to its store."""
    name = f'tokenmint_store_requests_total{{operation="{operation}",outcome="{outcome}",store="vault"}}'
    found = re.search(rf"^{re.escape(name)} (\d+)$", requests.get(f"{service.url}/metrics", timeout=10).text, re.MULTILINE)
    return int(found[1]) if found else 0


def closed_because(service):
    """The reason why the service isn't ready."""
    answer = requests.get(f"{service.url}/readyz", timeout=10)
    assert answer.status_code == 503, answer.text
    return answer.json()["reason"]


def becomes_ready(service):
    wait_until(lambda: service.answers("/readyz"), "the service is ready")
    assert service.process.poll() is None
    assert kid_that_signs(service) == KID


class Load:
    """Callers that ask for assertions without a pause, one that asks for identity tokens of a key in a file, and one that asks for the JWKS
    and /livez."""

    SIGNERS = 4

    def __init__(self, service):
        self.service, self.deployment = service, service.deployment
        self.assertions, self.identity_tokens, self.times, self.broken = [], [], [], []
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(self.sign,)) for _ in range(self.SIGNERS)]
        self.threads += [threading.Thread(target=self.run, args=(ask,)) for ask in (self.mint, self.read)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join()
        assert not self.broken, self.broken

    def run(self, ask):
        try:
            with requests.Session() as session:
                session.headers["Authorization"] = f"Bearer {self.deployment.api_key}"
                while not self.stop.is_set():
                    ask(session)
        except Exception as error:  # noqa: BLE001 (a thread's exception fails no test by itself)
            self.broken.append(error)

    def post(self, session, path, **body):
        began = time.monotonic()
        answer = session.post(f"{self.service.url}{path}", json=body, timeout=SLOWEST_ANSWER)
        return answer.status_code, answer.headers.get("Retry-After"), time.monotonic() - began

    def sign(self, session):
        self.assertions.append(self.post(session, "/oauth-assertion", profile="oauth.crm"))
        if self.assertions[-1][0] != 200:
            self.stop.wait(0.01)

    def mint(self, session):
        self.identity_tokens.append(self.post(session, "/identity-token", sub=SUB, profile="identity.web"))
        self.stop.wait(0.01)

    def read(self, session):
        for path in ("/keysets/crm/jwks.json", "/livez"):
            began = time.monotonic()
            answer = session.get(f"{self.service.url}{path}", timeout=SLOWEST_ANSWER)
            assert answer.status_code == 200, answer.text
            self.times.append(time.monotonic() - began)
        self.stop.wait(0.01)

    def more(self, what, is_counted=lambda outcome: True, count=20):
        """Waits until there are more answers that count."""
        before = len(what)
        wait_until(lambda: self.broken or sum(map(is_counted, what[before:])) >= count, f"{count} more answers")
        assert not self.broken, self.broken

    def signs(self):
        self.more(self.assertions, lambda outcome: outcome[0] == 200)

    def refuses(self):
        self.more(self.assertions, lambda outcome: outcome[0] == 503)

    def assert_only_the_keyset_of_the_store_failed(self):
        assert {status for status, _, _ in self.assertions} <= {200, 503}
        assert all(1 <= int(wait) <= 5 for status, wait, _ in self.assertions if status == 503)
        assert {status for status, _, _ in self.identity_tokens} == {200}
        self.assert_fast()

    def assert_fast(self):
        assert statistics.quantiles(self.times, n=100)[-1] < FAST, sorted(self.times)[-5:]


@pytest.fixture(scope="module")
def algorithms(tmp_path_factory, deployment, bao):
    """A keyset for each algorithm and length, whose key the command has made."""
    folder = tmp_path_factory.mktemp("algorithms") / "x"
    made = RemoteWorkspace(deployment.again(folder), bao, section_with_token(bao.address), keysets=MATRIX)
    for keyset, (_, _, bits) in MATRIX.items():
        succeeded(made.run_as_operator(f"tokenmint keys new {KIDS[keyset]} --remote --keyset {keyset} --bits {bits}"))
    return made


@pytest.fixture(scope="module")
def service(algorithms, run_service):
    service = run_service(algorithms.deployment)
    yield service
    service.stop()


class TestAlgorithms:
    @pytest.mark.parametrize("keyset", MATRIX)
    def test_pyjwt_and_jose_verify_the_tokens_of_a_key_of_the_store(self, service, keyset):
        alg, issuer, bits = MATRIX[keyset]
        token = service.mint("/identity-token", sub=SUB, profile=f"identity.{keyset}")["token"]
        assert jwt.get_unverified_header(token)["kid"] == KIDS[keyset]
        assert len(jwt.utils.base64url_decode(token.rpartition(".")[2])) * 8 == bits
        forged = tampered(token, sub="someone-else")
        for verify in (pyjwt, jose):
            for url in (service.jwks_url(keyset), service.jwks_url()):
                assert verify(url, token, alg, issuer, SUB)["sub"] == SUB
            with pytest.raises(Refused):
                verify(service.jwks_url(keyset), forged, alg, issuer, "someone-else")

    @pytest.mark.parametrize("keyset", MATRIX)
    def test_the_certificate_is_signed_by_the_store_and_is_that_of_the_file(self, bao, service, keyset):
        (jwk,) = service.jwks(keyset)
        (leaf,) = jwk["x5c"]
        certificate = x509.load_der_x509_certificate(base64.b64decode(leaf, validate=True))
        certificate.verify_directly_issued_by(certificate)
        numbers = certificate.public_key().public_numbers()
        decoded = [int.from_bytes(jwt.utils.base64url_decode(jwk[name])) for name in ("n", "e")]
        assert [numbers.n, numbers.e] == decoded
        in_the_store = bao.request("GET", f"transit/keys/{KIDS[keyset]}").json()["data"]["keys"]["1"]["public_key"]
        assert certificate.public_key() == load_pem_public_key(in_the_store.encode())
        file = service.deployment.folder / "keys" / keyset / f"{KIDS[keyset]}.crt"
        assert x509.load_pem_x509_certificate(file.read_bytes()) == certificate

    def test_the_private_key_is_in_no_file_and_the_store_does_not_export_it(self, bao, algorithms):
        for keyset in MATRIX:
            for path in (algorithms.folder / "keys" / keyset).iterdir():
                assert b"PRIVATE KEY" not in path.read_bytes(), path
            key = bao.request("GET", f"transit/keys/{KIDS[keyset]}").json()["data"]
            assert not key["exportable"] and not key["allow_plaintext_backup"]

    def test_check_says_what_identity_tokens_of_a_store_cost(self, algorithms):
        checked = algorithms.run("tokenmint check")
        assert checked.returncode == 0
        assert "at most 200 tokens a second" in checked.stderr, checked.stderr


class TestPolicies:
    """The least policies. Each of their lines is needed."""

    READ = 'path "transit/keys/KEY" { capabilities = ["read"] }\n'
    SHA256 = 'path "transit/sign/KEY/sha2-256" { capabilities = ["update"] }\n'
    SHA512 = 'path "transit/sign/KEY/sha2-512" { capabilities = ["update"] }\n'
    MAKE = 'path "transit/keys/KEY" { capabilities = ["read", "update"] }\n'

    @staticmethod
    def token(bao, name, key, *paths):
        bao.write(f"sys/policies/acl/{name}", policy="".join(paths).replace("KEY", key))
        return bao.token(name)

    def test_the_service_needs_to_read_the_key_and_to_sign_with_it(self, bao, replica, serve):
        for number, paths in enumerate([(self.READ,), (self.SHA256,)]):
            workspace = replica(token=self.token(bao, f"less-{number}", KID, *paths), name=f"less-{number}")
            checked = workspace.run("tokenmint check")
            assert checked.returncode == 0 and "refuses tokenmint: permission denied, at transit/" in checked.stderr, checked.stderr
        workspace = replica(token=self.token(bao, "enough", KID, self.READ, self.SHA256))
        assert kid_that_signs(serve(workspace)) == KID

    def test_rs512_also_needs_sha_256_for_the_certificate(self, bao, deployment, tmp_path, serve):
        bao.write("transit/keys/least", type="rsa-2048")

        def workspace(name, *paths):
            token = self.token(bao, name, "least", *paths)
            folder = tmp_path / name
            made = RemoteWorkspace(deployment.again(folder), bao, section_with_token(bao.address), token, ["web512"])
            made.list_key(KIDS["web512"], "least:1")
            return made

        checked = workspace("without-256", self.READ, self.SHA512).run("tokenmint check")
        assert "permission denied, at transit/sign/least/sha2-256" in checked.stderr, checked.stderr
        service = serve(workspace("without-512", self.READ, self.SHA256))
        assert_unavailable(service.post("/identity-token", {"sub": SUB, "profile": "identity.web512"}))
        log_has(service, "permission denied, at transit/sign/least/sha2-512")
        service = serve(workspace("with-both", self.READ, self.SHA256, self.SHA512))
        token = service.mint("/identity-token", sub=SUB, profile="identity.web512")["token"]
        assert pyjwt(service.jwks_url("web512"), token, "RS512", ISSUER_512, SUB)["sub"] == SUB

    def test_keys_new_needs_to_make_the_key_to_read_it_and_to_sign_its_certificate(self, bao, deployment, tmp_path):
        update = 'path "transit/keys/KEY" { capabilities = ["update"] }\n'
        for number, (paths, succeeds) in enumerate(
            [((self.READ, self.SHA256), False), ((update, self.SHA256), False), ((self.MAKE,), False), ((self.MAKE, self.SHA256), True)]
        ):
            name = f"made-{number}"
            workspace = RemoteWorkspace(deployment.again(tmp_path / name), bao, section_with_token(bao.address))
            workspace.operator_token.write_text(self.token(bao, name, name, *paths))
            ran = workspace.run_as_operator(f"tokenmint keys new {name} --remote --keyset crm")
            assert (ran.returncode == 0) == succeeds, ran.stderr
            assert workspace.key_files() == (["keyset.toml", f"{name}.crt", f"{name}.jwk"] if succeeds else [])
            if not succeeds:
                assert "refuses tokenmint: permission denied, at transit/" in ran.stderr, ran.stderr
        assert bao.request("GET", "transit/keys/made-0").status_code == 404
        assert bao.request("GET", "transit/keys/made-1").status_code == 404
        # The store has the key already, and the message says how to go on.
        assert bao.request("GET", "transit/keys/made-2").status_code == 200
        workspace = RemoteWorkspace(deployment.again(tmp_path / "again"), bao, section_with_token(bao.address))
        succeeded(workspace.run_as_operator("tokenmint keys new made-2 --remote-key made-2:1 --keyset crm"))

    def test_the_services_token_makes_no_key(self, bao, deployment, tmp_path):
        workspace = RemoteWorkspace(deployment.again(tmp_path / "x"), bao, section_with_token(bao.address))
        ran = workspace.run("tokenmint keys new crm-new --remote --keyset crm")
        assert ran.returncode == 1 and "store `vault` refuses tokenmint: permission denied" in ran.stderr, ran.stderr
        assert workspace.key_files() == []
        assert bao.request("GET", "transit/keys/crm-new").status_code == 404


class TestRotation:
    def test_a_rotation_in_the_store_changes_nothing_until_keys_rotate_takes_its_version(self, bao, workspace_with, serve):
        workspace = workspace_with("rotated")
        service = serve(workspace)
        before = service.jwks("crm")
        assert kid_that_signs(service) == KID
        bao.write("transit/keys/rotated/rotate")
        assert kid_that_signs(service) == KID
        service.stop()
        service.start()
        assert service.jwks("crm") == before
        assert kid_that_signs(service) == KID

        succeeded(workspace.run_as_operator("tokenmint keys rotate --keyset crm --emergency --kid next --remote-key rotated:2"))
        wait_until(lambda: kid_that_signs(service) == "next", "the second version signs")
        old, new = service.jwks("crm")
        assert old == before[0] and new["kid"] == "next" and new["n"] != old["n"]
        # Without --remote-key, the store makes a key.
        succeeded(workspace.run_as_operator("tokenmint keys rotate --keyset crm --emergency --kid third"))
        wait_until(lambda: kid_that_signs(service) == "third", "the new key signs")
        assert 'remote = "third:1"' in workspace.schedule.read_text()
        assert bao.request("GET", "transit/keys/third").json()["data"]["type"] == "rsa-2048"

    def test_min_decryption_version_excludes_the_key_and_its_message_names_it(self, bao, workspace_with, serve):
        workspace = workspace_with("raised")
        bao.write("transit/keys/raised/rotate")
        service = serve(workspace)
        bao.write("transit/keys/raised/config", min_decryption_version=2, min_encryption_version=2)
        wait_until(lambda: assertion(service).status_code == 503, "the store signs no more")
        assert_unavailable(assertion(service))
        assert_others_go_on(service)
        log_has(service, "less than the minimum encryption key version")
        checked = workspace.run("tokenmint check")
        assert checked.returncode == 64 and "has no version 1 of the key `raised`, but 2" in checked.stderr, checked.stderr
        bao.write("transit/keys/raised/config", min_decryption_version=1, min_encryption_version=0)
        signs_again(service)

    def test_a_key_that_is_deleted_is_named(self, bao, workspace_with, serve):
        workspace = workspace_with("deleted")
        service = serve(workspace)
        bao.write("transit/keys/deleted/config", deletion_allowed=True)
        assert bao.request("DELETE", "transit/keys/deleted").ok
        assert_unavailable(assertion(service))
        assert_others_go_on(service)
        for _ in range(3):
            assertion(service)
        log_has(service, "can't sign with the key `deleted:1`: signing key not found")
        checked = workspace.run("tokenmint check")
        assert checked.returncode == 64 and "has no key `deleted` at `transit`" in checked.stderr, checked.stderr
        # Another key of that name isn't ours: no signature of it leaves.
        bao.write("transit/keys/deleted", type="rsa-2048")
        log_of = lambda: requests_to_the_store(service, "sign", "wrong_signature")  # noqa: E731
        wait_until(lambda: assertion(service).status_code == 503 and log_of(), "the other key has signed")
        assert_others_go_on(service)


class TestLogins:
    LEASE = 4

    def test_a_login_by_jwt_is_renewed_while_several_leases_pass(self, bao, replica, serve):
        login = JwtLogin(bao, SIGN, token_ttl=f"{self.LEASE}s", token_max_ttl=f"{2 * self.LEASE}s")
        workspace = replica(section_with_login(bao.address, "jwt"))
        workspace.give_token(login.token(), "jwt")
        self.assert_leases_pass(serve(workspace))

    def test_a_login_by_kubernetes_is_renewed_while_several_leases_pass(self, bao, replica, serve, tmp_path):
        account = KubernetesLogin(bao, SIGN, tmp_path / "cluster", token_ttl=f"{self.LEASE}s", token_max_ttl=f"{2 * self.LEASE}s")
        try:
            workspace = replica(section_with_login(bao.address, "kubernetes"))
            workspace.give_token(account.token(), "jwt")
            self.assert_leases_pass(serve(workspace))
        finally:
            account.stop()

    def assert_leases_pass(self, service):
        with Load(service) as load:
            load.signs()
            logins = requests_to_the_store(service, "login")
            # Each login replaces a session at half of its life, so that eight are four leases.
            wait_until(lambda: load.broken or requests_to_the_store(service, "login") >= logins + 8, "eight more logins")
            load.signs()
        assert {status for status, _, _ in load.assertions} == {200}
        assert not requests_to_the_store(service, "sign", "denied")
        load.assert_only_the_keyset_of_the_store_failed()

    def test_a_login_whose_token_is_revoked_is_replaced_without_a_failed_request(self, bao, replica, serve):
        login = JwtLogin(bao, SIGN)
        workspace = replica(section_with_login(bao.address, "jwt"))
        workspace.give_token(login.token(), "jwt")
        service = serve(workspace)
        with Load(service) as load:
            load.signs()
            for _ in range(3):
                logins = requests_to_the_store(service, "login")
                bao.write("auth/token/revoke-accessor", accessor=self.accessor(bao))
                wait_until(lambda: load.broken or requests_to_the_store(service, "login") > logins, "another login")  # noqa: B023
                load.signs()
        assert {status for status, _, _ in load.assertions} == {200}
        load.assert_only_the_keyset_of_the_store_failed()

    @staticmethod
    def accessor(bao):
        """The accessor of the newest token of the role."""
        found = []
        for accessor in bao.tokens():
            answer = bao.request("POST", "auth/token/lookup-accessor", accessor=accessor)
            if answer.ok and answer.json()["data"]["path"] == "auth/jwt/login":
                found.append((answer.json()["data"]["creation_time"], answer.json()["data"]["ttl"], accessor))
        return max(found)[-1]

    def test_a_token_file_that_was_replaced_is_read_once_its_token_is_revoked(self, bao, replica, serve):
        token = bao.token(SIGN)
        workspace = replica(token=token)
        service = serve(workspace)
        with Load(service) as load:
            load.signs()
            workspace.give_token(bao.token(SIGN))
            bao.revoke(token)
            load.signs()
        assert {status for status, _, _ in load.assertions} == {200}
        load.assert_only_the_keyset_of_the_store_failed()

    def test_a_revoked_token_is_named_and_a_new_file_is_used_without_a_restart(self, bao, replica, serve):
        token = bao.token(SIGN)
        workspace = replica(token=token)
        service = serve(workspace)
        with Load(service) as load:
            load.signs()
            bao.revoke(token)
            load.refuses()
            log_has(service, f"refuses tokenmint: permission denied, at transit/sign/{KID}/sha2-256")
            workspace.give_token(bao.token(SIGN))
            load.signs()
        load.assert_only_the_keyset_of_the_store_failed()
        assert token not in service.log.read_text()


class TestConnection:
    def test_tls_with_an_own_certificate_authority_and_a_namespace(self, bao, deployment, tmp_path, serve):
        team = "team-signing"
        bao.write(f"sys/namespaces/{team}")
        bao.write("sys/mounts/transit", team, type="transit")
        bao.add_signing_policies(team)
        section = section_with_token(bao.tls_address, ca_file=bao.ca_file, namespace=team)
        tokens = [bao.token(policy, team) for policy in (RemoteWorkspace.POLICY, RemoteWorkspace.OPERATOR_POLICY)]
        workspace = RemoteWorkspace(deployment.again(tmp_path / "x"), bao, section, tokens[0], operator_token=tokens[1])
        succeeded(workspace.run_as_operator("tokenmint keys new team-key --remote --keyset crm"))
        assert bao.request("GET", "transit/keys/team-key", team).status_code == 200
        assert bao.request("GET", "transit/keys/team-key").status_code == 404
        assert kid_that_signs(serve(workspace)) == "team-key"

    def test_the_authorities_of_the_host_do_not_vouch_for_it(self, bao, replica):
        checked = replica(section_with_token(bao.tls_address)).run("tokenmint check")
        assert checked.returncode == 0
        assert "store `vault` doesn't answer: invalid peer certificate" in checked.stderr, checked.stderr

    def test_another_name_of_the_mount(self, bao, deployment, tmp_path, serve):
        bao.write("sys/mounts/team/transit", type="transit")
        paths = TestPolicies.MAKE.replace("transit/", "team/transit/"), TestPolicies.SHA256.replace("transit/", "team/transit/")
        token = TestPolicies.token(bao, "mount", "+", *paths)
        section = section_with_token(bao.address, mount="team/transit")
        workspace = RemoteWorkspace(deployment.again(tmp_path / "x"), bao, section, token, operator_token=token)
        succeeded(workspace.run_as_operator(f"tokenmint keys new {KID} --remote --keyset crm"))
        assert kid_that_signs(serve(workspace)) == KID


class TestFaults:
    def test_a_sealed_store_costs_the_assertions_alone_until_it_is_unsealed(self, bao, replica, serve):
        service = serve(replica())
        with Load(service) as load:
            load.signs()
            bao.seal()
            try:
                load.refuses()
                log_has(service, "doesn't answer: Vault is sealed")
                assert_others_go_on(service)
            finally:
                bao.unseal()
            load.signs()
        load.assert_only_the_keyset_of_the_store_failed()
        signs_again(service)
        assert service.log.read_text().count("the store doesn't sign") == 1

    def test_a_store_that_hangs_costs_the_assertions_alone_until_it_goes_on(self, bao, replica, serve):
        service = serve(replica())
        with Load(service) as load:
            load.signs()
            bao.pause()
            try:
                load.refuses()
                log_has(service, "doesn't answer: not within 1 s")
                assert_others_go_on(service)
            finally:
                bao.resume()
            load.signs()
        load.assert_only_the_keyset_of_the_store_failed()
        signs_again(service)

    def test_a_store_that_hangs_during_a_login_costs_the_assertions_alone(self, bao, replica, serve):
        login = JwtLogin(bao, SIGN, token_ttl="4s", token_max_ttl="4s")
        workspace = replica(section_with_login(bao.address, "jwt"))
        workspace.give_token(login.token(), "jwt")
        service = serve(workspace)
        with Load(service) as load:
            load.signs()
            bao.pause()
            try:
                load.refuses()
                # The lease ends meanwhile, so that the trials of the open circuit log in.
                wait_until(lambda: load.broken or requests_to_the_store(service, "login", "unavailable"), "a login has failed")
                assert_others_go_on(service)
            finally:
                bao.resume()
            load.signs()
        load.assert_only_the_keyset_of_the_store_failed()
        signs_again(service)

    def test_a_store_that_is_killed_signs_again_after_its_restart(self, lasting_bao, deployment, tmp_path, serve):
        section = section_with_token(lasting_bao.address, ca_file=lasting_bao.ca_file)
        workspace = RemoteWorkspace(deployment.again(tmp_path / "x"), lasting_bao, section)
        succeeded(workspace.run_as_operator(f"tokenmint keys new {KID} --remote --keyset crm"))
        service = serve(workspace)
        jwks = service.jwks()
        with Load(service) as load:
            load.signs()
            lasting_bao.kill()
            load.refuses()
            assert_others_go_on(service)
            # A reload keeps the keys.
            reloads = service.log.read_text().count('"reloaded"')
            service.process.send_signal(signal.SIGHUP)
            wait_until(lambda: service.log.read_text().count('"reloaded"') > reloads, "the service has reloaded")
            assert service.jwks() == jwks
            assert_others_go_on(service)
            lasting_bao.restart()
            lasting_bao.wait_for_status(503)
            load.refuses()
            lasting_bao.unseal()
            load.signs()
        load.assert_only_the_keyset_of_the_store_failed()
        signs_again(service)

        # Away at the start: that keyset is closed, and opens by itself.
        service.stop()
        lasting_bao.kill()
        service.start("/livez")
        assert closed_because(service).endswith("doesn't answer: Connection refused (os error 111)")
        assert_unavailable(assertion(service))
        assert requests.get(service.jwks_url("crm"), timeout=10).status_code == 503
        assert service.mint("/identity-token", sub=SUB, profile="identity.web")["token"]
        lasting_bao.restart()
        lasting_bao.wait_for_status(503)
        lasting_bao.unseal()
        becomes_ready(service)

    def test_a_quota_of_the_store_is_named_and_no_request_is_repeated(self, bao, replica, serve):
        service = serve(replica())
        assert kid_that_signs(service) == KID
        bao.quota("signing", path="transit", rate=2, interval="60s")
        try:
            with Load(service) as load:
                load.refuses()
                log_has(service, "asks for fewer requests: request path")
                assert_others_go_on(service)
                bao.no_quota("signing")
                load.signs()
            load.assert_only_the_keyset_of_the_store_failed()
        finally:
            with contextlib.suppress(AssertionError):
                bao.no_quota("signing")
        signs_again(service)

    def test_more_than_max_signatures_per_second_is_refused_and_the_store_is_not_asked(self, bao, replica, serve):
        section = section_with_token(bao.address) + "max_signatures_per_second = 5\n"
        service = serve(replica(section))
        began, before = time.monotonic(), requests_to_the_store(service, "sign")
        with Load(service) as load:
            load.refuses()
            load.more(load.assertions, lambda outcome: outcome[0] == 200, 8)
        asked, took = requests_to_the_store(service, "sign") - before, time.monotonic() - began
        assert asked <= 5 * took + 2
        load.assert_only_the_keyset_of_the_store_failed()


class Firewall(TlsFront):
    """A TLS listener in front of the store that can forget its connections: their bytes go nowhere, and no side is told."""

    forgotten = 0

    def forget(self):
        self.forgotten += 1

    async def _serve(self, reader, writer):
        opened = self.forgotten

        async def copy(source, target):
            while data := await source.read(65536):
                if opened == self.forgotten:
                    target.write(data)
                    await target.drain()
            target.close()

        with contextlib.suppress(OSError, ssl.SSLError, asyncio.CancelledError):
            store_reader, store_writer = await asyncio.open_connection("127.0.0.1", self.port)
            await asyncio.gather(copy(reader, store_writer), copy(store_reader, writer))


class TestWhatAnAdversaryFound:
    def test_a_key_does_not_replace_itself(self, replica):
        workspace = replica()
        before = workspace.schedule.read_text()
        ran = workspace.run_as_operator(f"tokenmint keys rotate --keyset crm --emergency --kid next --remote-key {KID}:1")
        assert ran.returncode != 0
        assert workspace.schedule.read_text() == before

    def test_connections_that_a_firewall_forgot_are_replaced(self, bao, replica, serve):
        firewall = Firewall((bao.certificate, bao.key), int(bao.address.rpartition(":")[2]))
        try:
            service = serve(replica(section_with_token(firewall.url, ca_file=bao.ca_file)))
            with concurrent.futures.ThreadPoolExecutor(32) as callers:
                assert {answer.status_code for answer in callers.map(lambda _: assertion(service), range(200))} == {200}
            firewall.forget()
            signs_again(service)
        finally:
            firewall.close()

    def test_a_login_that_hangs_costs_nothing_while_the_old_session_is_valid(self, bao, replica, serve, tmp_path):
        account = KubernetesLogin(bao, SIGN, tmp_path / "cluster", token_ttl="20s")
        try:
            workspace = replica(section_with_login(bao.address, "kubernetes"))
            workspace.give_token(account.token(), "jwt")
            service = serve(workspace)
            began = time.monotonic()
            assert kid_that_signs(service) == KID
            account.cluster.may_answer.clear()
            # At half of its life, the session is to be replaced.
            answers = []
            while time.monotonic() < began + 14:
                before = time.monotonic()
                answers.append((assertion(service).status_code, time.monotonic() - before))
            assert {status for status, _ in answers} == {200}
            assert max(took for _, took in answers) < 1
        finally:
            account.cluster.may_answer.set()
            account.stop()

    def test_impatient_callers_open_the_circuit_and_the_log_names_the_outage(self, bao, replica, serve):
        service = serve(replica())
        assert kid_that_signs(service) == KID
        headers = {"Authorization": f"Bearer {service.deployment.api_key}"}
        bao.pause()
        try:
            for _ in range(10):
                with contextlib.suppress(requests.ReadTimeout):
                    requests.post(f"{service.url}/oauth-assertion", json={"profile": "oauth.crm"}, headers=headers, timeout=0.3)
            log_has(service, "the store doesn't sign")
        finally:
            bao.resume()

    def test_no_token_of_a_login_is_left_in_the_store(self, bao, replica, serve):
        login = JwtLogin(bao, SIGN)
        workspace = replica(section_with_login(bao.address, "jwt"))
        workspace.give_token(login.token(), "jwt")
        before = bao.tokens()
        service = serve(workspace)
        assert kid_that_signs(service) == KID
        service.stop()
        assert bao.tokens() - before == set()

    @pytest.mark.parametrize("command", ["doctor", "doctor --online", "mint oauth.crm"])
    def test_the_commands_say_what_the_store_said(self, bao, replica, command):
        workspace = replica()
        bao.seal()
        try:
            ran = workspace.run(f"tokenmint {command}")
        finally:
            bao.unseal()
        assert "Vault is sealed" in ran.stdout + ran.stderr
