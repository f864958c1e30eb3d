"""JWTs of other issuers as callers' credentials and as subject tokens: real issuers, and a fake that the tests can break.

oidc-provider, oauth2-mock-server and OpenBao run unchanged. No API server of Kubernetes can run here: `cluster` is a fake of
its `/openid/v1/jwks`, which wants the pod's own token.
"""

import json
import secrets
import signal
import threading
import time

import jwt
import pytest
import requests
from issuers import (
    AUDIENCE,
    ELSEWHERE,
    RESOURCE,
    Bao,
    FakeIssuer,
    Key,
    MockServer,
    OidcProvider,
    as_bytes,
    logged,
    logged_refusal,
    make_authority,
    wait_until,
    without_id,
)
from service import ISSUER, Deployment
from verifiers import pyjwt

ROTATIONS = 12
# Seconds without a fetch after one that didn't find a `kid`.
COOLDOWN = 5
RELOADED = '"message":"reloaded"'
THREADS = 4


def issuer_section(name, issuer, source, audience=(AUDIENCE,)):
    return f"""
[issuers.{name}]
issuer = "{issuer}"
audience = {json.dumps(audience)}
{source}
"""


def caller_section(name, issuer, sub):
    """A caller by JWT, which may also send subject tokens of the same issuer. `allow` has one profile of each kind."""
    return f"""
[callers.{name}]
jwt_issuer = "{issuer}"
jwt_claims = {{ sub = ["{sub}"] }}
allow = ["identity.web", "intercom.fin", "bundles.fin"]
subject_token = "optional"
subject_issuer = "{issuer}"
"""


@pytest.fixture(scope="module")
def oidc_provider(tmp_path_factory):
    issuer = OidcProvider(tmp_path_factory.mktemp("oidc-provider"))
    yield issuer
    issuer.stop()


@pytest.fixture(scope="module")
def mock_server(tmp_path_factory):
    issuer = MockServer(tmp_path_factory.mktemp("oauth2-mock-server"))
    yield issuer
    issuer.stop()


@pytest.fixture(scope="module")
def bao(tmp_path_factory):
    issuer = Bao(tmp_path_factory.mktemp("bao"))
    yield issuer
    issuer.stop()


@pytest.fixture(scope="module")
def pod(tmp_path_factory):
    """The folder that a pod has at /var/run/secrets/kubernetes.io/serviceaccount: `ca.crt` and `token`."""
    return tmp_path_factory.mktemp("serviceaccount")


@pytest.fixture(scope="module")
def cluster(pod):
    """A fake of the API server: TLS by its own CA, and 401 without the pod's token."""
    _, tls = make_authority(pod)
    fake = FakeIssuer([Key("cluster-1")], pod_token=new_pod_token(pod), tls=tls)
    yield fake
    fake.stop()


@pytest.fixture(scope="module")
def stranger(pod, cluster):
    """Another host that the cluster's CA vouches for. Here a port is a host."""
    fake = FakeIssuer([Key("stranger-1")], tls=cluster.tls)
    yield fake
    fake.stop()


@pytest.fixture(scope="module")
def key_host(cluster):
    """The host that the metadata of `managed` names for its keys, as those of EKS do."""
    fake = FakeIssuer([Key("managed-1")], tls=cluster.tls)
    yield fake
    fake.stop()


@pytest.fixture(scope="module")
def managed(pod, cluster, key_host):
    """A fake of an issuer whose keys are on another host."""
    fake = FakeIssuer([], tls=cluster.tls)
    fake.issuer = fake.url
    fake.metadata = {"issuer": fake.issuer, "jwks_uri": key_host.url + key_host.PATH}
    yield fake
    fake.stop()


@pytest.fixture(scope="module")
def login():
    """A fake of an identity provider that the tests stop and start."""
    fake = FakeIssuer([Key("login-1"), Key("login-2", "ES256")])
    yield fake
    fake.stop()


@pytest.fixture(scope="module")
def late():
    """A fake of an identity provider that starts after tokenmint."""
    fake = FakeIssuer([Key("late-1")])
    fake.stop()
    yield fake
    fake.stop()


@pytest.fixture(scope="module")
def pestered():
    """A fake of an identity provider whose name is on many tokens that it didn't issue."""
    fake = FakeIssuer([Key("pestered-1")])
    yield fake
    fake.stop()


@pytest.fixture(scope="module")
def twins():
    """Fakes of two issuers with the same name: two clusters that nobody gave a name of their own."""
    fakes = [FakeIssuer([Key(f"twin-{number}")]) for number in (1, 2)]
    for fake in fakes:
        fake.issuer = "https://kubernetes.default.svc.cluster.local"
    yield fakes
    for fake in fakes:
        fake.stop()


@pytest.fixture(scope="module")
def service(
    tmp_path_factory,
    run_service,
    oauth_server,
    oidc_provider,
    mock_server,
    bao,
    pod,
    cluster,
    stranger,
    managed,
    login,
    late,
    pestered,
    twins,
):
    """One tokenmint with all these issuers. The tests of this file don't use the service of the others."""
    folder = tmp_path_factory.mktemp("issuers")
    deployment = Deployment(folder, oauth_server.config["BASE"] + "/services/oauth2/token")
    in_pod = f'ca_file = "{pod}/ca.crt"\nbearer_token_file = "{pod}/token"'
    sections = [
        issuer_section("oidc-provider", oidc_provider.issuer, "discovery = true", (AUDIENCE, RESOURCE)),
        caller_section("oidc-provider", "oidc-provider", "backend"),
        issuer_section("mock", mock_server.issuer, "discovery = true"),
        caller_section("mock", "mock", "backend"),
        issuer_section("bao", bao.issuer, "discovery = true"),
        caller_section("bao", "bao", bao.entity("backend")[0]),
        issuer_section("cluster", cluster.issuer, f'jwks_url = "{cluster.url}{cluster.PATH}"\n{in_pod}'),
        caller_section("cluster", "cluster", "system:serviceaccount:shop:web"),
        issuer_section("moved", "https://moved.example", f'jwks_url = "{cluster.url}/moved"\n{in_pod}'),
        caller_section("moved", "moved", "user-1"),
        issuer_section("lured", "https://lured.example", f'jwks_url = "{cluster.url}/lured"\n{in_pod}'),
        caller_section("lured", "lured", "user-1"),
        issuer_section("no-ca", "https://no-ca.example", f'jwks_url = "{cluster.url}{cluster.PATH}"'),
        caller_section("no-ca", "no-ca", "user-1"),
        issuer_section("managed", managed.issuer, f"discovery = true\n{in_pod}"),
        caller_section("managed", "managed", "user-1"),
        issuer_section("pestered", pestered.issuer, f'jwks_url = "{pestered.url}{pestered.PATH}"'),
        caller_section("pestered", "pestered", "backend"),
        *(issuer_section(f"twin-{at}", twin.issuer, f'jwks_url = "{twin.url}{twin.PATH}"') for at, twin in enumerate(twins)),
        *(caller_section(f"twin-{at}", f"twin-{at}", f"web-{at}") for at in range(2)),
        issuer_section("login", login.issuer, f'jwks_url = "{login.url}{login.PATH}"'),
        caller_section("login", "login", "backend"),
        issuer_section("late", late.issuer, f'jwks_url = "{late.url}{late.PATH}"'),
        caller_section("late", "late", "backend"),
    ]
    cluster.redirects = {
        "/moved": "/moved/again",
        "/moved/again": f"{cluster.url}{cluster.PATH}",
        "/lured": f"{stranger.url}{stranger.PATH}",
    }
    with deployment.config.open("a") as config:
        config.write("".join(sections))
    return run_service(deployment)


def ask(service, credential, session=requests, path="/identity-token", **body):
    """One request of a caller with a JWT."""
    headers = {"Authorization": f"Bearer {credential}"}
    return session.post(service.url + path, json=body, headers=headers, timeout=30)


def minted_for(service, answer):
    """The subject of a minted token, which PyJWT verifies."""
    assert answer.status_code == 200, answer.text
    token = answer.json()["token"]
    return pyjwt(service.jwks_url("web"), token, "RS256", ISSUER, unverified(token)["sub"])["sub"]


def unverified(token):
    """The claims of a token."""
    return jwt.decode(token, options={"verify_signature": False})


def assert_bad_subject_token(answer, words):
    assert answer.status_code == 400, answer.text
    said = answer.json()
    assert (said["error"], said["field"]) == ("invalid_request", "subject_token")
    assert words in said["error_description"]


def assert_bad_credential(service, answer, rule):
    """Refused as a wrong API key is, with the reason in the log."""
    assert answer.status_code == 401, answer.text
    wrong_key = ask(service, secrets.token_urlsafe(32), sub="user-1")
    assert wrong_key.status_code == 401
    assert without_id(answer) == without_id(wrong_key)
    logged_refusal(service, rule)


def assert_unavailable(answer):
    assert answer.status_code == 503, answer.text
    assert answer.json()["error"] == "issuer_unavailable"
    assert 1 <= int(answer.headers["Retry-After"]) <= 5


def fetches(service, issuer, outcome):
    """The number of fetches so far."""
    wanted = {f'issuer="{issuer}"', f'outcome="{outcome}"'}
    for line in requests.get(f"{service.url}/metrics", timeout=10).text.splitlines():
        name, _, value = line.rpartition(" ")
        if name.startswith("tokenmint_issuer_fetches_total") and all(label in name for label in wanted):
            return int(float(value))
    return 0


def new_pod_token(pod):
    """Writes a new token as the kubelet does: under another name, and then renamed."""
    token = secrets.token_urlsafe(32)
    (pod / "token.new").write_text(token)
    (pod / "token.new").rename(pod / "token")
    return token


@pytest.fixture(params=["oidc_provider", "mock_server", "bao"])
def issuer(request):
    return request.getfixturevalue(request.param)


class TestRealIssuers:
    def test_a_workload_is_a_caller_by_its_jwt(self, service, issuer):
        token = issuer.workload_token()
        for _ in range(2):
            assert minted_for(service, ask(service, token, sub="user-4711")) == "user-4711"

    def test_a_user_is_named_by_a_subject_token(self, service, issuer):
        user_token = issuer.user_token("alice")
        user = unverified(user_token)["sub"]
        answer = ask(service, issuer.workload_token(), subject_token=user_token)
        assert minted_for(service, answer) == user
        audited = logged(service, answer)
        assert (audited["message"], audited["credential"]) == ("minted", "jwt")
        assert audited["subject_issuer"] == audited["caller"]
        assert answer.json()["expires_at"] <= unverified(user_token)["exp"]

        answer = ask(service, issuer.workload_token(), subject_token=user_token, sub=user)
        assert minted_for(service, answer) == user
        answer = ask(service, issuer.workload_token(), subject_token=user_token, sub="mallory")
        assert answer.status_code == 400, answer.text
        assert answer.json()["field"] == "sub"

    def test_it_is_the_same_user_in_the_other_kinds_of_tokens(self, service, issuer):
        user_token = issuer.user_token("alice")
        user = unverified(user_token)["sub"]
        caller = issuer.workload_token()
        chat = ask(service, caller, path="/intercom-user-jwt", subject_token=user_token)
        assert chat.status_code == 200, chat.text
        secret = service.deployment.intercom_secret
        assert jwt.decode(chat.json()["token"], secret, ["HS256"])["user_id"] == user

        bundle = ask(service, caller, path="/bundle", subject_token=user_token)
        assert bundle.status_code == 200, bundle.text
        tokens = bundle.json()["tokens"]
        assert unverified(tokens["salesforce_identity_token"])["sub"] == user
        assert unverified(tokens["intercom_user_jwt"])["user_id"] == user
        for token in (chat.json()["token"], *tokens.values()):
            assert unverified(token)["exp"] <= unverified(user_token)["exp"]

    def test_a_token_for_another_audience_is_refused(self, service, issuer):
        for_another = issuer.user_token("alice", ELSEWHERE)
        assert_bad_subject_token(ask(service, issuer.workload_token(), subject_token=for_another), "(`aud`)")
        elsewhere = f"https://{ELSEWHERE}.example" if isinstance(issuer, OidcProvider) else ELSEWHERE
        assert_bad_credential(service, ask(service, issuer.workload_token(elsewhere), sub="user-1"), "aud")

    def test_a_user_is_no_caller(self, service, issuer):
        assert_bad_credential(service, ask(service, issuer.user_token("alice"), sub="user-1"), "jwt_claims")

    def test_a_token_of_one_issuer_is_none_of_another(self, service, issuer, oidc_provider, bao):
        other = bao if issuer is oidc_provider else oidc_provider
        answer = ask(service, issuer.workload_token(), subject_token=other.user_token("alice"))
        assert_bad_subject_token(answer, "(`iss`)")


def test_a_new_key_of_oauth2_mock_server_is_fetched(service, mock_server):
    """It signs with its keys in turn, two tokens for each request; so with three keys, each signs one ID token of three."""
    for _ in range(2):
        mock_server.add_key()
    kids = set()
    for _ in range(3):
        token = mock_server.workload_token()
        kids.add(jwt.get_unverified_header(token)["kid"])
        assert minted_for(service, ask(service, token, sub="user-4711")) == "user-4711"
    assert kids == mock_server.kids()


def test_no_token_is_refused_while_bao_rotates_its_key(service, bao):
    """Each thread gets a new JWT from OpenBao, and a token for it, as fast as it can."""
    stop = threading.Event()
    outcomes = {}  # (kid, status) -> requests
    broken = []
    lock = threading.Lock()

    def load():
        try:
            with requests.Session() as to_bao, requests.Session() as to_tokenmint:
                while not stop.is_set():
                    token = bao.user_token("backend", session=to_bao)
                    answer = ask(service, token, to_tokenmint, sub="user-4711")
                    with lock:
                        key = jwt.get_unverified_header(token)["kid"], answer.status_code
                        outcomes[key] = outcomes.get(key, 0) + 1
        except Exception as error:  # noqa: BLE001 (a thread's exception fails no test by itself)
            broken.append(error)

    def served():
        with lock:
            return {kid for kid, status in outcomes if status == 200}

    fetched_before = fetches(service, "bao", "success")
    threads = [threading.Thread(target=load) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    try:
        for rotation in range(ROTATIONS):
            before = served()
            bao.rotate()
            if rotation % 3 == 2:
                bao.rotate()  # The key between them signs little or nothing.
            wait_until(lambda: broken or served() - before, f"a token with the key of rotation {rotation}")  # noqa: B023
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not broken
    assert {status for _, status in outcomes} == {200}, outcomes
    kids = {kid for kid, _ in outcomes}
    assert len(kids) > ROTATIONS
    assert fetches(service, "bao", "failure") == 0
    # All requests with a new key share a fetch, or wait for the next one if a fetch was running.
    assert fetches(service, "bao", "success") - fetched_before <= 2 * len(kids)


class TestCluster:
    SUB = "system:serviceaccount:shop:web"

    def test_its_keys_are_fetched_with_the_pods_token(self, service, cluster):
        token = cluster.token(cluster.keys[0], sub=self.SUB)
        assert minted_for(service, ask(service, token, sub="user-4711")) == "user-4711"
        assert (cluster.PATH, f"Bearer {cluster.pod_token}") in cluster.asked

    def test_a_new_token_of_the_pod_is_sent_with_the_next_fetch(self, service, pod, cluster):
        old = cluster.pod_token
        cluster.pod_token = new_pod_token(pod)
        asked_before = len(cluster.asked)
        cluster.keys.append(Key("cluster-2"))
        token = cluster.token(cluster.keys[-1], sub=self.SUB)
        assert minted_for(service, ask(service, token, sub="user-4711")) == "user-4711"
        sent = {authorization for path, authorization in cluster.asked[asked_before:] if path == cluster.PATH}
        assert f"Bearer {cluster.pod_token}" in sent
        assert f"Bearer {old}" not in sent

    def test_while_the_api_server_refuses_the_pod_no_token_is_called_bad(self, service, pod, cluster):
        """The API server knows the new token before the kubelet has written it."""
        cluster.pod_token = secrets.token_urlsafe(32)
        cluster.keys.append(Key("cluster-3"))
        token = cluster.token(cluster.keys[-1], sub=self.SUB)
        assert_unavailable(ask(service, token, sub="user-4711"))
        assert minted_for(service, ask(service, cluster.token(cluster.keys[0], sub=self.SUB), sub="user-1")) == "user-1"

        cluster.pod_token = new_pod_token(pod)
        answers = until_served(service, token)
        assert {answer.status_code for answer in answers} <= {503, 200}

    def test_redirects_on_the_same_host_are_followed(self, service, cluster):
        token = cluster.token(cluster.keys[0], iss="https://moved.example")
        until_served(service, token)
        assert {path for path, _ in cluster.asked} >= {"/moved", "/moved/again"}

    def test_no_redirect_to_another_host_is_followed(self, service, cluster, stranger):
        wait_until(lambda: fetches(service, "lured", "failure"), "the keys of `lured` were asked for")
        token = stranger.token(stranger.keys[0], iss="https://lured.example")
        assert_unavailable(ask(service, token, sub="user-1"))
        assert "/lured" in {path for path, _ in cluster.asked}
        assert stranger.asked == [], "and so it never saw the pod's token"

        def is_logged():
            return [line for line in service.log.read_text().splitlines() if '"lured"' in line and "status 302" in line]

        wait_until(is_logged, "the log has the redirect")

    def test_the_pods_token_is_not_for_another_host_that_the_metadata_name(self, service, managed, key_host):
        token = key_host.token(key_host.keys[0], iss=managed.issuer)
        until_served(service, token)
        assert all(authorization.startswith("Bearer ") for _, authorization in managed.asked)
        assert set(key_host.asked) == {(key_host.PATH, None)}

    def test_only_the_ca_of_the_configuration_counts(self, service, cluster):
        wait_until(lambda: fetches(service, "no-ca", "failure"), "the keys of `no-ca` were asked for")
        assert_unavailable(ask(service, cluster.token(cluster.keys[0], iss="https://no-ca.example"), sub="user-1"))
        assert fetches(service, "no-ca", "success") == 0


def until_served(service, token, **body):
    """Repeats a request for as long as the keys are unavailable. Returns all answers; the last one is a token."""
    answers = []

    def is_served():
        answers.append(ask(service, token, **(body or {"sub": "user-4711"})))
        if answers[-1].status_code != 503:
            return True
        assert_unavailable(answers[-1])
        return False

    wait_until(is_served, "the keys can be fetched again")
    assert answers[-1].status_code == 200, answers[-1].text
    return answers


class TestIssuerDown:
    def test_known_keys_serve_and_unknown_ones_are_no_fault_of_the_token(self, service, login):
        known, new = login.keys[0], Key("login-3")
        caller = login.token(known, sub="backend")
        assert minted_for(service, ask(service, caller, sub="user-1")) == "user-1"
        login.stop()
        login.keys.append(new)
        try:
            for key in login.keys[:2]:
                answer = ask(service, login.token(key, sub="backend"), sub="user-1")
                assert minted_for(service, answer) == "user-1"
                answer = ask(service, login.token(known, sub="backend"), subject_token=login.token(key, sub="user-2"))
                assert minted_for(service, answer) == "user-2"
            for _ in range(20):
                assert_unavailable(ask(service, login.token(new, sub="backend"), sub="user-1"))
                answer = ask(service, login.token(known, sub="backend"), subject_token=login.token(new, sub="user-2"))
                assert_unavailable(answer)
                # What can be judged without keys is judged.
                late = login.token(new, sub="backend", exp=int(time.time()) - 1)
                assert_bad_credential(service, ask(service, late, sub="user-1"), "exp")
        finally:
            login.start()
        until_served(service, login.token(new, sub="backend"))
        answer = ask(service, login.token(known, sub="backend"), subject_token=login.token(new, sub="user-2"))
        assert minted_for(service, answer) == "user-2"
        recovered = "the keys of an issuer can be fetched again"
        wait_until(lambda: recovered in service.log.read_text(), "the log has the recovery")

    def test_nobody_who_has_a_key_waits_for_another(self, service, login):
        """The issuer takes the request for its keys, and doesn't answer."""
        until_served(service, login.token(login.keys[0], sub="backend"))
        new = Key("login-slow")
        login.keys.append(new)
        asked_before, waited_for = len(login.asked), []
        login.may_answer.clear()
        token = login.token(new, sub="backend")
        waiting = threading.Thread(target=lambda: waited_for.append(ask(service, token, sub="user-1")))
        waiting.start()
        try:
            wait_until(lambda: len(login.asked) > asked_before, "the issuer is asked for the new key")
            for _ in range(5):
                answer = ask(service, login.token(login.keys[0], sub="backend"), sub="user-1")
                assert minted_for(service, answer) == "user-1"
            assert waited_for == []
        finally:
            login.may_answer.set()
            waiting.join()
        assert waited_for[0].status_code in (200, 503), "503 if this machine took more than the 5 s of a fetch"
        until_served(service, token)

    def test_a_kept_credential_ends_with_its_exp(self, service, login):
        """A verified JWT isn't verified again, but it ends."""
        exp = int(time.time()) + 3
        token = login.token(login.keys[0], sub="backend", exp=exp)
        until_served(service, token)
        answers = []

        def is_refused():
            asked_at = time.time()
            answers.append(ask(service, token, sub="user-1"))
            assert asked_at < exp or answers[-1].status_code == 401
            return answers[-1].status_code == 401

        wait_until(is_refused, "the token has expired")
        assert time.time() >= exp
        assert_bad_credential(service, answers[-1], "exp")

    def test_an_issuer_that_is_down_harms_none_of_the_same_name(self, service, twins):
        """`iss` doesn't tell which of the two issued a token. Each issuer has another caller."""
        for at in range(2):
            wait_until(lambda: fetches(service, f"twin-{at}", "success"), "its keys were fetched")  # noqa: B023
        for at, twin in enumerate(twins):
            twin.stop()
            other = twins[1 - at]
            try:
                answer = ask(service, other.token(other.keys[0], sub=f"web-{1 - at}"), sub="user-1")
                assert minted_for(service, answer) == "user-1"
            finally:
                twin.start()

    def test_an_answer_that_is_no_jwks_is_an_outage(self, service, login):
        """The kept keys stay, and no token is called bad."""
        known, new = login.keys[0], Key("login-broken")
        until_served(service, login.token(known, sub="backend"))
        key_twice = as_bytes({"keys": [new.jwk(), new.jwk()]})
        oversized = as_bytes({"keys": [new.jwk()], "x": "x" * 65_536})
        login.keys.append(new)
        try:
            for login.answer in ((500, b""), (200, b"<html>"), (200, b'{"keys":[]}'), (200, key_twice), (200, oversized)):
                asked_before = len(login.asked)

                def is_asked():
                    assert_unavailable(ask(service, login.token(new, sub="backend"), sub="user-1"))
                    return len(login.asked) > asked_before  # noqa: B023

                wait_until(is_asked, "the issuer is asked again")
                answer = ask(service, login.token(known, sub="backend"), sub="user-1")
                assert minted_for(service, answer) == "user-1"
        finally:
            login.answer = None
        until_served(service, login.token(new, sub="backend"))

    def test_a_reload_keeps_fetched_keys(self, service, login):
        until_served(service, login.token(login.keys[0], sub="backend"))
        reloads = service.log.read_text().count(RELOADED)
        login.stop()
        try:
            service.process.send_signal(signal.SIGHUP)
            wait_until(lambda: service.log.read_text().count(RELOADED) > reloads, "the configuration is loaded again")
            for _ in range(5):
                answer = ask(service, login.token(login.keys[0], sub="backend"), sub="user-1")
                assert minted_for(service, answer) == "user-1"
        finally:
            login.start()

    def test_an_issuer_that_starts_late_is_waited_for(self, service, late):
        token = late.token(late.keys[0], sub="backend")
        assert_unavailable(ask(service, token, sub="user-1"))
        late.start()
        until_served(service, token)

    def test_keys_that_the_issuer_withdraws_end_the_trust_in_kept_tokens(self, service, login):
        """A JWT that was verified before is verified anew once the issuer's keys were fetched anew."""
        leaked = Key("login-4")
        login.keys.append(leaked)
        kept = login.token(leaked, sub="backend")
        until_served(service, kept)
        login.keys.remove(leaked)
        login.keys.append(Key("login-5"))
        until_served(service, login.token(login.keys[-1], sub="backend"))
        assert_bad_credential(service, ask(service, kept, sub="user-1"), "kid")


def test_tokens_of_nobody_cause_few_fetches(service, pestered):
    """Anybody can write the name of an issuer and a new `kid` on a token."""
    known = pestered.keys[0]
    until_served(service, pestered.token(known, sub="backend"))
    started, asked_before = time.monotonic(), len(pestered.asked)
    for number in range(200):
        forged = pestered.token(Key(f"nobody-{number}", "ES256"), sub="backend")
        answer = ask(service, forged, sub="user-1")
        assert answer.status_code == 401, answer.text
    answer = ask(service, pestered.token(known, sub="backend"), sub="user-1")
    assert minted_for(service, answer) == "user-1"
    fetched = len(pestered.asked) - asked_before
    assert 1 <= fetched <= 1 + (time.monotonic() - started) / COOLDOWN
