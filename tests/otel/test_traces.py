"""A tokenmint with the feature `otel`: what a collector gets of it, what it never gets, and that minting needs none."""

import json
import pathlib
import socket
import threading
import time

import pytest
import requests
from ports import free_port

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=opaque"}
NOT_SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "100"}


@pytest.fixture
def service(serve, collector):
    return serve(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **SOON)


def test_a_request_is_a_span_below_its_caller_s_and_each_step_one_below_that(service, collector, salesforce):
    answer = service.post("/oauth-access-token", {"profile": "oauth.crm"}, headers=SAMPLED)
    assert answer.status_code == 200, answer.text
    request, signing, exchange = collector.wait_for(3)

    assert (request.name, request.kind) == ("POST /oauth-access-token", "server")
    assert (request.trace, request.parent, request.state) == (TRACE, PARENT, "vendor=opaque")
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/oauth-access-token",
        "http.response.status_code": 200,
        "tokenmint.caller": "everything",
        "tokenmint.profile": "oauth.crm",
    }
    assert (signing.name, signing.kind, signing.attributes) == ("sign", "internal", {})
    assert (exchange.name, exchange.kind) == ("POST", "client")
    assert exchange.attributes == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": salesforce.server.server_port,
        "tokenmint.outcome": "success",
        "tokenmint.profile": "oauth.crm",
    }
    for step in signing, exchange:
        assert (step.trace, step.parent) == (TRACE, request.id)
        assert request.start <= step.start <= step.end <= request.end
    assert salesforce.traceparents == [f"00-{TRACE}-{exchange.id}-01"]
    assert not any(span.failed for span in (request, signing, exchange))
    assert set(collector.paths) == {("/v1/traces", "application/x-protobuf")}
    resource = collector.resources[0]
    version = service.run("--version").decode().split()[1]
    assert (resource["service.name"], resource["service.version"]) == ("tokenmint", version)

    # A kept token asks nobody.
    assert service.post("/oauth-access-token", {"profile": "oauth.crm"}, headers=SAMPLED).status_code == 200
    assert collector.wait_for(4)[-1].name == "POST /oauth-access-token"


def test_each_way_to_a_token_is_a_request_with_its_profile(service, collector):
    key = {"Authorization": f"Bearer {service.deployment.one_of_each_key}"}
    for path, body, profile, steps in [
        ("/identity-token", {"sub": "user-1"}, "identity.web", ["sign"]),
        ("/oauth-assertion", {}, "oauth.crm", ["sign"]),
        ("/intercom-user-jwt", {"user_id": "user-1"}, "intercom.fin", []),
        ("/bundle", {"sub": "user-1"}, "bundles.fin", ["sign"]),
    ]:
        before = len(collector.spans())
        assert service.post(path, body, headers=key).status_code == 200, path
        request, *others = collector.wait_for(before + 1 + len(steps))[before:]
        assert (request.name, request.attributes["tokenmint.profile"]) == (f"POST {path}", profile)
        assert request.attributes["tokenmint.caller"] == "one-of-each"
        assert [(step.name, step.parent) for step in others] == [(step, request.id) for step in steps]


def test_a_trace_begins_here_where_nobody_sends_one_and_the_log_has_its_id(service, collector):
    service.mint("/identity-token", sub="user-1", profile="identity.web")
    service.mint("/identity-token", sub="user-1", profile="identity.web")
    spans = [span for span in collector.wait_for(4) if span.kind == "server"]
    assert [span.parent for span in spans] == ["", ""]
    assert len({span.trace for span in spans}) == 2 and all(int(span.trace, 16) for span in spans)
    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    assert [line["trace_id"] for line in lines if line["message"] == "minted"] == [span.trace for span in spans]


def test_a_failed_exchange_and_an_answer_of_5xx_are_errors_and_the_caller_s_own_fault_is_none(service, collector):
    refused = service.post("/messaging-access-token", {"sub": "user-1", "profile": "identity.web"})
    assert refused.status_code == 502, refused.text
    request, _, exchange = collector.wait_for(3)
    assert request.failed and request.attributes["error.type"] == "502"
    assert exchange.failed and exchange.attributes["error.type"] == exchange.attributes["tokenmint.outcome"] == "rejected"
    assert exchange.attributes["http.response.status_code"] == 404

    assert service.post("/identity-token", {"sub": "user-1"}, headers={"Authorization": None}).status_code == 401
    *_, anonymous = collector.wait_for(4)
    assert not anonymous.failed and anonymous.attributes["http.response.status_code"] == 401
    assert "tokenmint.caller" not in anonymous.attributes


def test_who_does_not_record_a_trace_is_followed_and_strangers_have_no_say(service, collector, salesforce):
    assert service.post("/oauth-access-token", {"profile": "oauth.crm"}, headers=NOT_SAMPLED).status_code == 200
    (traceparent,) = salesforce.traceparents
    assert traceparent.startswith(f"00-{TRACE}-") and traceparent.endswith("-00") and PARENT not in traceparent
    for path in ["/.well-known/jwks.json", "/keysets/web/jwks.json", "/livez", "/metrics", "/openapi.yaml", "/nowhere"]:
        requests.get(service.url + path, headers=SAMPLED, timeout=10)
        requests.post(service.url + path, headers=SAMPLED, timeout=10)
    requests.get(f"{service.url}/identity-token", headers=SAMPLED, timeout=10)
    service.mint("/identity-token", sub="user-1", profile="identity.web")
    assert [span.name for span in collector.wait_for(2)] == ["POST /identity-token", "sign"]


@pytest.mark.parametrize(("sampler", "count"), [("always_off", 0), ("parentbased_always_off", 2), ("always_on", 4)])
def test_the_sampler_is_the_environment_s(serve, collector, sampler, count):
    service = serve(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{collector.url}/v1/traces", OTEL_TRACES_SAMPLER=sampler, **SOON)
    service.mint("/identity-token", sub="user-1", profile="identity.web")
    service.post("/identity-token", {"sub": "user-1", "profile": "identity.web"}, headers=SAMPLED)
    collector.wait_for(count)


def test_the_service_is_called_as_the_environment_says(serve, collector):
    attributes = "service.version=from-the-pipeline,deployment.environment.name=test"
    service = serve(
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_SERVICE_NAME="mint-eu", OTEL_RESOURCE_ATTRIBUTES=attributes, **SOON
    )
    service.mint("/identity-token", sub="user-1", profile="identity.web")
    collector.wait_for(2)
    told = ["service.name", "service.version", "deployment.environment.name"]
    assert [collector.resources[0][name] for name in told] == ["mint-eu", "from-the-pipeline", "test"]


def test_what_is_not_exported_yet_is_at_the_end(serve, collector):
    service = serve(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_BSP_SCHEDULE_DELAY="600000")
    service.mint("/identity-token", sub="user-1", profile="identity.web")
    # Three times the schedule that the other tests set: an export that wasn't delayed would have come.
    time.sleep(0.3)
    assert not collector.bodies
    service.stop()
    assert len(collector.spans()) == 2


def test_no_subject_claim_token_or_key_is_in_what_is_exported(serve, collector, salesforce):
    """A canary in each input; and each secret that comes out or lies in a file. The log, at its most talkative, keeps the
    collector's key."""
    canary, collector_key = "canary-7f3a9c", "the-key-of-the-collector"
    of_the_collector = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_EXPORTER_OTLP_HEADERS": f"api-key={collector_key}"}
    service = serve(RUST_LOG="trace", **of_the_collector, **SOON)
    deployment = service.deployment
    tokens = []
    for n in range(3):
        body = {"sub": f"{canary}-sub-{n}", "profile": "identity.web", "claims": {"locale": f"{canary}-claim"}}
        tokens.append(service.mint("/identity-token", **body)["token"])
        service.post("/messaging-access-token", body)
        service.post("/identity-token", body | {canary: canary, "profile": canary})
    tokens.append(service.mint("/oauth-assertion", profile="oauth.crm")["assertion"])
    tokens.append(service.mint("/intercom-user-jwt", user_id=f"{canary}-user", profile="intercom.fin")["token"])
    service.mint("/oauth-access-token", profile="oauth.crm", rejected_token=f"{canary}-rejected")
    headers = {"Cookie": canary, "User-Agent": canary, "X-Request-Id": canary, "baggage": f"user={canary}"}
    service.post(f"/identity-token?{canary}", {"sub": canary, "profile": "identity.web"}, headers=headers)
    requests.post(f"{service.url}/{canary}", headers={"Authorization": f"Bearer {canary}"}, timeout=10)
    requests.post(f"{service.url}/identity-token", headers={"Authorization": f"Bearer {canary}"}, timeout=10)
    service.stop()

    secrets = [canary, salesforce.TOKEN, deployment.api_key, deployment.intercom_secret, "services/oauth2", "3MVG9", "@acme"]
    for token in tokens:
        secrets += token.split(".")
    for key in deployment.folder.glob("keys/*/*.key"):
        secrets += [line for line in key.read_text().splitlines() if not line.startswith("-----")]
    exported = b"".join(collector.bodies)
    assert len(collector.spans()) > 15
    assert [secret for secret in secrets if secret.encode() in exported] == []
    assert collector.keys == {collector_key}
    assert collector_key not in service.log.read_text()


@pytest.fixture
def hanging():
    """One that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        kept = []

        def accept():
            try:
                while True:
                    kept.append(listener.accept())
            except OSError:
                pass

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]


def duration(service, count=300):
    """Of that many tokens without a signature to wait for, in seconds; the best of three."""

    def once():
        with requests.Session() as session:
            session.headers["Authorization"] = f"Bearer {service.deployment.api_key}"
            start = time.monotonic()
            for n in range(count):
                body = {"user_id": f"user-{n}", "profile": "intercom.fin"}
                answer = session.post(f"{service.url}/intercom-user-jwt", json=body, timeout=10)
                assert answer.status_code == 200, answer.text
            return time.monotonic() - start

    return min(once() for _ in range(3))


@pytest.mark.parametrize("how", ["dead", "hanging"])
def test_a_collector_that_is_away_costs_no_token_no_time_and_no_end(serve, hanging, how):
    port = hanging if how == "hanging" else free_port()
    # Soon full, and always somebody who waits for the collector.
    small = {"OTEL_BSP_MAX_QUEUE_SIZE": "32", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8"}
    service = serve(**SOON)
    without = duration(service)
    service.stop()
    service = serve(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}", **SOON, **small)
    took = duration(service)
    # The machine may be busy; a request that waited for the collector once would take ten seconds.
    assert took < 3 * without + 1, f"{took} s, and {without} s without a collector"
    start = time.monotonic()
    # Stops well, or says why not.
    service.stop()
    assert time.monotonic() - start < 9
    if how == "dead":
        assert "HTTP export failed" in service.log.read_text()


def test_without_an_endpoint_there_is_nothing_to_export_and_nobody_who_would(serve):
    service = serve(OTEL_EXPORTER_OTLP_ENDPOINT="")
    service.mint("/identity-token", sub="user-1", profile="identity.web")
    threads = pathlib.Path(f"/proc/{service.process.pid}/task").glob("*/comm")
    names = {thread.read_text().strip() for thread in threads}
    assert any(name.startswith("tokio") for name in names), names
    assert not any(name.startswith(("OpenTelemetry", "reqwest")) for name in names), names
    assert "traces" not in service.log.read_text()
