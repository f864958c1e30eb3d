"""deploy/kubernetes: rendered by kubectl, held against Kubernetes' own schemas, and its pod run as a node would."""

import base64
import hashlib
import json
import subprocess
import sys
import time
import tomllib
from secrets import token_urlsafe

import jwt
import kubernetes_validate
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from service import REPO, environment

KUBERNETES = REPO / "deploy" / "kubernetes"
# The oldest that has all that is used (preStop's `sleep`), and the newest that has a schema here.
VERSIONS = ["1.30", "1.37"]
CUSTOM = ("monitoring.coreos.com", "cert-manager.io", "external-secrets.io")
COMPONENTS = ["cert-manager", "external-secrets", "fin", "workload-identity"]
VARIANTS = ["base", "overlays/example", "overlays/production", *(f"components/{name}" for name in COMPONENTS)]


@pytest.fixture(scope="module")
def render(installed, tmp_path_factory):
    """The objects of a folder of deploy/kubernetes; a component's, laid over the base."""

    def kustomize(folder):
        ran = subprocess.run([installed / "bin" / "kubectl", "kustomize", folder], capture_output=True, timeout=60)
        # A warning, too, is something to fix: kubectl says so where a field is deprecated.
        assert (ran.returncode, ran.stderr.decode()) == (0, "")
        return [thing for thing in yaml.safe_load_all(ran.stdout) if thing]

    def rendered(variant):
        if not variant.startswith("components/"):
            return kustomize(KUBERNETES / variant)
        alone = tmp_path_factory.mktemp("component")
        to = "../" * (len(alone.parts) - 1) + str(KUBERNETES).lstrip("/")
        kustomization = {"resources": [f"{to}/base"], "components": [f"{to}/{variant}"]}
        (alone / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return kustomize(alone)

    kept = {variant: rendered(variant) for variant in VARIANTS}
    return kept.__getitem__


@pytest.fixture(scope="module")
def backend(installed):
    """The objects of the example of a backend."""
    ran = subprocess.run([installed / "bin" / "kubectl", "kustomize", KUBERNETES / "backend"], capture_output=True, timeout=60)
    assert (ran.returncode, ran.stderr.decode()) == (0, "")
    return list(yaml.safe_load_all(ran.stdout))


def one(objects, kind, name="tokenmint"):
    (found,) = (thing for thing in objects if (thing["kind"], thing["metadata"]["name"]) == (kind, name))
    return found


def is_custom(thing):
    return thing["apiVersion"].split("/")[0] in CUSTOM


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_what_kubernetes_takes_without_an_unknown_field(render, variant, version):
    for thing in render(variant):
        if not is_custom(thing):
            kubernetes_validate.validate(thing, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_backend_is_what_kubernetes_takes(backend, version):
    for thing in backend:
        kubernetes_validate.validate(thing, version, strict=True)


def test_the_backend_is_the_caller_of_the_example_and_may_reach_it(backend, render):
    """Its service account, the audience of its token, the labels that the policy wants, and where it looks for tokenmint."""
    objects = render("overlays/example")
    config = configuration(objects)
    deployment = one(backend, "Deployment", "web")
    template = deployment["spec"]["template"]
    namespace = one(backend, "Namespace", "shop")
    account = one(backend, "ServiceAccount", template["spec"]["serviceAccountName"])["metadata"]
    caller = config["callers"]["web-backend"]
    assert caller["jwt_claims"]["sub"] == [f"system:serviceaccount:{account['namespace']}:{account['name']}"]
    (volume,) = template["spec"]["volumes"]
    (source,) = volume["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] in config["issuers"][caller["jwt_issuer"]]["audience"]
    (container,) = template["spec"]["containers"]
    (mount,) = container["volumeMounts"]
    given = {entry["name"]: entry["value"] for entry in container["env"]}
    assert given["TOKENMINT_TOKEN_FILE"] == f"{mount['mountPath']}/{source['serviceAccountToken']['path']}"
    service = one(objects, "Service")
    port = next(port["port"] for port in service["spec"]["ports"] if port["name"] == "minting")
    assert given["TOKENMINT_URL"] == f"http://{service['metadata']['name']}.{service['metadata']['namespace']}:{port}"
    (rule,) = (rule for rule in one(objects, "NetworkPolicy")["spec"]["ingress"] if rule["ports"] == [{"port": "minting"}])
    (peer,) = rule["from"]
    assert peer["namespaceSelector"]["matchLabels"].items() <= namespace["metadata"]["labels"].items()
    assert peer["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()


@pytest.mark.parametrize("variant", ["overlays/example", "overlays/production"])
def test_no_api_key_is_in_the_cluster(render, variant):
    assert all(caller.keys() == {"jwt_issuer", "jwt_claims", "allow"} for caller in configuration(render(variant))["callers"].values())
    binding = one(render(variant), "ClusterRoleBinding", "tokenmint-issuer-discovery")
    account = one(render(variant), "ServiceAccount")["metadata"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}]
    assert binding["roleRef"]["name"] == "system:service-account-issuer-discovery"


def configuration(objects):
    (config,) = (thing for thing in objects if thing["kind"] == "ConfigMap")
    return tomllib.loads(config["data"]["tokenmint.toml"])


class Cluster:
    """The part of a cluster that signs tokens of service accounts and publishes its keys. It is a fake: no API server runs here."""

    def __init__(self, config, folder):
        (self.issuer,) = config["issuers"].values()
        (caller,) = config["callers"].values()
        (self.sub,) = caller["jwt_claims"]["sub"]
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
        authority = ["-subj", "/CN=kubernetes", "-keyout", folder / "ca.key", "-out", folder / "ca.crt"]
        server = ["-subj", "/CN=kube-apiserver", "-keyout", folder / "api.key", "-out", folder / "api.crt", "-CA", folder / "ca.crt"]
        server += ["-CAkey", folder / "ca.key", "-addext", "subjectAltName=DNS:kubernetes.default.svc"]
        server += ["-addext", "basicConstraints=critical,CA:FALSE"]
        for what in [authority, server]:
            subprocess.run([*make, *what], check=True, capture_output=True)
        # What its pods and the node are told.
        self.told = {
            "authority": (folder / "ca.crt").read_text(),
            "certificate": (folder / "api.crt").read_text(),
            "private key": (folder / "api.key").read_text(),
            "pod token": self.token("system:serviceaccount:tokenmint:tokenmint", ["https://kubernetes.default.svc.cluster.local"]),
            "jwks": self.jwks(),
        }

    def jwks(self):
        numbers = self.key.public_key().public_numbers()
        n, e = (base64.urlsafe_b64encode(x.to_bytes((x.bit_length() + 7) // 8)).rstrip(b"=").decode() for x in [numbers.n, numbers.e])
        return json.dumps({"keys": [{"use": "sig", "kty": "RSA", "kid": "cluster-1", "alg": "RS256", "n": n, "e": e}]})

    def token(self, sub, audience):
        namespace, name = sub.split(":")[2:]
        now = int(time.time())
        claims = {"iss": self.issuer["issuer"], "sub": sub, "aud": audience, "iat": now, "nbf": now, "exp": now + 3600}
        pod = {"name": f"{name}-0", "uid": "00000000-0000-0000-0000-000000000001"}
        claims["kubernetes.io"] = {"namespace": namespace, "pod": pod, "serviceaccount": {"name": name}}
        return jwt.encode(claims, self.key, algorithm="RS256", headers={"kid": "cluster-1"})


def test_every_custom_resource_is_what_its_operator_takes_without_an_unknown_field(render, installed):
    customs = [thing for variant in VARIANTS for thing in render(variant) if is_custom(thing)]
    assert {thing["kind"] for thing in customs} == {"ServiceMonitor", "Certificate", "ExternalSecret"}
    assert faults_of(customs, installed) == ""


def test_a_wrong_custom_resource_would_be_noticed(render, installed):
    """Or the check above could be one that says yes to everything."""
    monitor = one(render("base"), "ServiceMonitor")
    endpoint = monitor["spec"]["endpoints"][0]
    wrong = [
        monitor | {"spec": monitor["spec"] | {"endpoints": [endpoint | fault]}}
        for fault in [{"port": 9090}, {"scrapeTimeOut": "1s"}, {"interval": "soon"}]
    ]
    faults = faults_of(wrong, installed)
    assert all(word in faults for word in ["port must be string", "scrapeTimeOut", "interval must match"]), faults


def faults_of(customs, installed):
    command = ["node", REPO / "tests" / "deploy" / "custom-resources.mjs", installed / "node"]
    ran = subprocess.run(command, input=json.dumps(customs).encode(), capture_output=True, timeout=120)
    assert ran.stderr == b""
    return ran.stdout.decode()


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_secret_is_in_it(render, variant):
    objects = render(variant)
    assert not [thing for thing in objects if thing["kind"] == "Secret"]
    assert "PRIVATE KEY" not in json.dumps(objects)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_pod_keeps_to_the_restricted_standard(render, variant):
    """Kubernetes' Pod Security Standards, `restricted`; and more where the image allows it."""
    pod = one(render(variant), "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod.keys()
    assert pod["automountServiceAccountToken"] is False
    for volume in pod["volumes"]:
        assert {"configMap", "projected", "emptyDir"} & volume.keys(), volume
        if "projected" in volume:
            assert volume["projected"]["defaultMode"] == 0o440
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not [port for port in container["ports"] if "hostPort" in port]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_name_meets_what_it_names(render, variant):
    """Ports by name, selectors by label, the autoscaler's target, the ConfigMap with its hash: a slip in any of these
    is valid and does nothing."""
    objects = render(variant)
    deployment = one(objects, "Deployment")
    template = deployment["spec"]["template"]
    labels = template["metadata"]["labels"].items()
    ports = {port["name"] for container in template["spec"]["containers"] for port in container["ports"]}
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels

    services = {thing["metadata"]["name"]: thing for thing in objects if thing["kind"] == "Service"}
    for service in services.values():
        assert service["spec"]["selector"].items() <= labels
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for thing in objects:
        if thing["kind"] == "Ingress":
            for rule in thing["spec"]["rules"]:
                for path in rule["http"]["paths"]:
                    backend = path["backend"]["service"]
                    named = {port["name"] for port in services[backend["name"]]["spec"]["ports"]}
                    assert backend["name"] == "tokenmint-public" and backend["port"]["name"] in named
                assert rule["host"] in thing["spec"]["tls"][0]["hosts"]
        if thing["kind"] == "NetworkPolicy":
            assert thing["spec"]["podSelector"]["matchLabels"].items() <= labels
            # All three, or a listener is cut off; and minting never without `from`.
            rules = {port["port"]: rule.get("from") for rule in thing["spec"]["ingress"] for port in rule["ports"]}
            assert rules.keys() == ports and rules["minting"] and rules["ops"]
        if thing["kind"] == "PodDisruptionBudget":
            assert thing["spec"]["selector"]["matchLabels"].items() <= labels
        if thing["kind"] == "HorizontalPodAutoscaler":
            assert thing["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
            assert "replicas" not in deployment["spec"]
            assert template["spec"]["containers"][0]["resources"]["requests"]["cpu"]
            assert thing["spec"]["minReplicas"] > one(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"]
        if thing["kind"] == "ServiceMonitor":
            monitored = [
                service["metadata"]["name"]
                for service in services.values()
                if thing["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
            ]
            assert monitored == ["tokenmint-ops"]
            assert thing["spec"]["endpoints"][0]["port"] in {
                port["name"] for port in services["tokenmint-ops"]["spec"]["ports"]
            }
            assert services["tokenmint-ops"]["metadata"]["labels"][thing["spec"]["jobLabel"]] == "tokenmint"
    for constraint in template["spec"]["topologySpreadConstraints"]:
        assert constraint["labelSelector"]["matchLabels"].items() <= labels
    maps = {thing["metadata"]["name"] for thing in objects if thing["kind"] == "ConfigMap"}
    assert {volume["configMap"]["name"] for volume in template["spec"]["volumes"] if "configMap" in volume} == maps


@pytest.mark.parametrize("variant", ["base", "overlays/example", "overlays/production"])
def test_the_pod_starts_answers_its_probes_takes_a_new_key_and_stops_in_time(render, binary, tmp_path, variant):
    """The manifest's own mounts, modes, user, environment and probes, as a node makes them, with the real program: it
    alone notices a mount that the program can't use, a port that differs between two files, or keys that it refuses."""
    keys = tmp_path / "keys"
    for kid in ["WebAppKey1", "WebAppKey2"]:
        (tmp_path / kid).mkdir()
        config = tmp_path / kid / "tokenmint.toml"
        config.write_text('[keysets.web]\ndirectory = "keys"\n')
        make = [binary, "keys", "new", kid, "--keyset", "web", "--config", config]
        subprocess.run(make, check=True, capture_output=True, env=environment())
    # As `kubectl create secret --from-file` would have it, before and after a rotation.
    before = {file.name: file.read_text() for file in (tmp_path / "WebAppKey1" / "keys").glob("*.key")}
    after = before | {file.name: file.read_text() for file in (tmp_path / "WebAppKey2" / "keys").glob("*.key")}
    after["keyset.toml"] = (
        '[[key]]\nkid = "WebAppKey1"\nsign_from = 2026-01-01T00:00:00Z\n'
        '[[key]]\nkid = "WebAppKey2"\nsign_from = 2099-01-01T00:00:00Z\n'
    )
    keys.mkdir()
    tls = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
    tls += ["-subj", "/CN=tokens.acme.example", "-keyout", keys / "tls.key", "-out", keys / "tls.crt"]
    subprocess.run(tls, check=True, capture_output=True)
    secrets = {
        "tokenmint-keys-web": [before, after],
        "tokenmint-intercom-fin": [{"secret": "0123456789abcdef" * 4}, {"secret": "fedcba9876543210" * 4}],
        "tokenmint-public-tls": [{name: (keys / name).read_text() for name in ["tls.crt", "tls.key"]}],
    }
    told = tmp_path / "pod.json"
    credential = token_urlsafe(32)
    # In the base's ConfigMap stands a hash that no API key has.
    text = json.dumps(render(variant)).replace("0" * 64, hashlib.sha256(credential.encode()).hexdigest())
    cluster = None
    if variant != "base":
        cluster = Cluster(configuration(render(variant)), keys)
        credential = cluster.token(cluster.sub, cluster.issuer["audience"])
    strangers = [cluster.token(cluster.sub, ["another"]), cluster.token("system:serviceaccount:shop:other", ["tokenmint"])] if cluster else []
    hang = variant == "base"
    told.write_text(
        json.dumps(
            {
                "objects": json.loads(text),
                "secrets": secrets,
                "binary": str(binary),
                "credential": credential,
                "wrong credentials": strangers,
                "cluster": cluster and cluster.told,
                "hang": hang,
            }
        )
    )
    pod = [sys.executable, REPO / "tests" / "deploy" / "pod.py", told]
    apart = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--"]
    played = subprocess.run([*apart, *pod], capture_output=True, timeout=90)
    assert played.returncode == 0, played.stderr.decode()
    seen = json.loads(played.stdout)

    assert seen["probes"] == {"startupProbe": 200, "readinessProbe": 200, "livenessProbe": 200}
    assert seen["state"] == {"tokenmint.logins": ["0o700", 65532]}
    public = seen["public"]
    assert public["scheme"] == ("https" if variant == "overlays/production" else "http")
    assert public["jwks"] == ["WebAppKey1"]
    assert public["other paths"] == {"/identity-token": 404, "/metrics": 404, "/readyz": 404}
    assert seen["minting"] == {"POST /identity-token": 401, "GET /metrics": 404}
    assert seen["jwks after the Secret's update"] == ["WebAppKey1", "WebAppKey2"]
    spec = one(render(variant), "Deployment")["spec"]["template"]["spec"]
    notice = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert (seen["minted"], seen["exit code"]) == (200, 0)
    assert seen["minted with wrong credentials"] == [401 for _ in strangers]
    # With the pod's token, to the authority of `ca_file`: the fake answers no other request.
    assert seen["answers of the API server"] == ([200] if cluster else [])
    # The base mints no user JWT. In the overlays it is signed with the Secret's new state.
    assert seen["bundle"] == (None if variant == "base" else {"salesforce_identity_token": "RS256", "intercom_user_jwt": "HS256"})
    assert seen["new secret"] == (None if variant == "base" else True)
    # docs/operate/index.md: gone within 10 seconds, whatever clients do. tokenmint waits five seconds for this client's body.
    assert notice + 10 < spec["terminationGracePeriodSeconds"]
    assert (4 if hang else 0) < seen["seconds to stop"] < 10
