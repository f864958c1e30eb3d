"""Plays the node of one pod: makes the mounts of a Deployment as kubelet does, runs tokenmint in them as the pod's
user, probes it, updates its Secret, stops it. Prints what it saw as JSON.

    unshare --mount --net --pid --fork --kill-child -- python3 pod.py TOLD.json

TOLD.json: `objects`, the rendered manifests; `secrets`, of each Secret its states one after the other; `binary`;
`credential` of a caller, and `wrong credentials`; `cluster`, what a fake of the API server has, or null; `hang`, whether a request is
left open at the end. It must be root in namespaces of its own: everything that it mounts, runs and listens on ends with them.
"""

import base64
import hashlib
import hmac
import http.client
import http.server
import json
import os
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

# What the image sets; see Dockerfile.
IMAGE = {"TOKENMINT_CONFIG": "/etc/tokenmint/tokenmint.toml"}


def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)


class Pod:
    def __init__(self, told, root):
        objects = told["objects"]
        (deployment,) = (thing for thing in objects if thing["kind"] == "Deployment")
        self.maps = {thing["metadata"]["name"]: thing for thing in objects if thing["kind"] == "ConfigMap"}
        self.secrets = told["secrets"]
        self.cluster = told["cluster"]
        self.spec = deployment["spec"]["template"]["spec"]
        (self.container,) = self.spec["containers"]
        self.group = self.spec["securityContext"]["fsGroup"]
        self.ports = {port["name"]: port["containerPort"] for port in self.container["ports"]}
        self.root = root
        self.binary = told["binary"]

    def lay_out(self):
        """A root that only has what the program links to, then the volumes, then no more writing to that root."""
        mount("--make-rprivate", "/")
        mount("-t", "tmpfs", "root", str(self.root))
        self.root.chmod(0o755)
        for folder in ["usr", "lib", "lib64"]:
            if (pathlib.Path("/") / folder).is_dir():
                (self.root / folder).mkdir()
                mount("--bind", f"/{folder}", str(self.root / folder))
        shutil.copy(self.binary, self.root / "tokenmint")
        if self.cluster:
            # In the place of the cluster's DNS.
            (self.root / "etc").mkdir()
            (self.root / "etc" / "hosts").write_text("127.0.0.1 kubernetes.default.svc\n")
            (self.root / "etc" / "nsswitch.conf").write_text("hosts: files\n")
        volumes = {volume["name"]: volume for volume in self.spec["volumes"]}
        self.updates = []
        for wanted in self.container["volumeMounts"]:
            self.fill(volumes[wanted["name"]], self.root / wanted["mountPath"].lstrip("/"))
        mount("-o", "remount,ro", str(self.root))

    def fill(self, volume, at):
        at.mkdir(parents=True)
        mount("-t", "tmpfs", volume["name"], str(at))
        os.chown(at, 0, self.group)
        # As a memory-backed volume with an fsGroup is: a tmpfs keeps its sticky bit.
        at.chmod(0o3777)
        if "configMap" in volume:
            write(at, self.maps[volume["configMap"]["name"]]["data"], 0o644, self.group)
        elif "projected" in volume:
            mode = volume["projected"]["defaultMode"]
            # The states of the volume: in each, the files of all its sources.
            of_sources = [self.states_of(source) for source in volume["projected"]["sources"]]
            states = [
                {name: text for states in of_sources for name, text in states[min(n, len(states) - 1)].items()}
                for n in range(max(map(len, of_sources)))
            ]
            write(at, states[0], mode, self.group)
            self.updates += [lambda files=files: write(at, files, mode, self.group) for files in states[1:]]

    def states_of(self, source):
        """The files of one source of a projected volume, one state after the other."""
        if "serviceAccountToken" in source:
            # For the API server: one for another audience would be the token of a caller, which tokenmint isn't.
            assert "audience" not in source["serviceAccountToken"]
            return [{source["serviceAccountToken"]["path"]: self.cluster["pod token"]}]
        if "configMap" in source:
            assert source["configMap"]["name"] == "kube-root-ca.crt"
            return [{item["path"]: self.cluster["authority"] for item in source["configMap"]["items"]}]
        return self.secrets[source["secret"]["name"]]

    def start(self):
        user, group = (self.spec["securityContext"][key] for key in ["runAsUser", "runAsGroup"])
        given = {entry["name"]: entry["value"] for entry in self.container.get("env", [])}
        # By their paths: the environment is the pod's, without ours.
        command = [shutil.which("setpriv"), "--no-new-privs", shutil.which("chroot"), f"--userspec={user}:{group}"]
        command += [f"--groups={self.group}", str(self.root), "/tokenmint", "serve"]
        self.process = subprocess.Popen(command, env=IMAGE | given, stdout=sys.stderr, stderr=sys.stderr)

    def probe(self, name):
        """The status of one probe, tried as often as the manifest says."""
        probe = self.container[name]
        get = probe["httpGet"]
        for _ in range(probe["failureThreshold"]):
            try:
                return ask(self.ports[get["port"]], "GET", get["path"], timeout=probe.get("timeoutSeconds", 1))[0]
            except OSError:
                if self.process.poll() is not None:
                    sys.exit(f"tokenmint ended by itself, exit code {self.process.returncode}")
                time.sleep(probe["periodSeconds"])
        return None


def write(at, files, mode, group):
    """As kubelet: a folder of its own for each state, links to it, and one rename that changes them all."""
    state = pathlib.Path(tempfile.mkdtemp(prefix="..", dir=at))
    state.chmod(0o755)
    for name, text in files.items():
        (state / name).write_text(text)
        os.chown(state / name, 0, group)
        (state / name).chmod(mode)
        if not (at / name).is_symlink():
            (at / name).symlink_to(f"..data/{name}")
    (at / "..data_tmp").symlink_to(state.name)
    (at / "..data_tmp").rename(at / "..data")


class ApiServer(http.server.ThreadingHTTPServer):
    """A fake of the API server: its keys, for the pod's token alone. `answers` has the status of each answer."""

    daemon_threads = True

    def __init__(self, cluster, folder):
        super().__init__(("127.0.0.1", 443), Discovery)
        self.cluster, self.answers = cluster, []
        pem = folder / "api.pem"
        pem.write_text(cluster["certificate"] + cluster["private key"])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Discovery(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        known = self.headers["Authorization"] == f"Bearer {self.server.cluster['pod token']}"
        status = 404 if self.path != "/openid/v1/jwks" else 200 if known else 401
        body = self.server.cluster["jwks"].encode() if status == 200 else b"{}"
        self.server.answers.append(status)
        self.send_response(status)
        self.send_header("Content-Type", "application/jwk-set+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def ask(port, method, path, headers=(), body=None, timeout=5, tls=False):
    if tls:
        unchecked = ssl._create_unverified_context()  # noqa: S323 - the certificate is made up
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=timeout, context=unchecked)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    connection.request(method, path, body, {"User-Agent": "kube-probe/1.37"} | dict(headers))
    answer = connection.getresponse()
    return answer.status, answer.read()


def kids(pod, tls):
    status, body = ask(pod.ports["public"], "GET", "/keysets/web/jwks.json", tls=tls)
    assert status == 200, (status, body)
    return sorted(key["kid"] for key in json.loads(body)["keys"])


def bundle(pod, credential):
    """The tokens of one page load, or None where there is no bundle."""
    status, body = ask(pod.ports["minting"], "POST", "/bundle", credential, '{"sub": "user-1"}')
    return json.loads(body)["tokens"] if status == 200 else None


def algorithm(token):
    head = token.split(".")[0]
    return json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["alg"]


def signed_with(token, secret):
    head, _, signature = token.rpartition(".")
    made = hmac.new(secret.encode(), head.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(made).rstrip(b"=").decode() == signature


def main():
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    file = pathlib.Path(sys.argv[1])
    told = json.loads(file.read_text())
    root = file.with_suffix(".root")
    root.mkdir()
    pod = Pod(told, root)
    pod.lay_out()
    api_server = ApiServer(pod.cluster, file.parent) if pod.cluster else None
    pod.start()
    seen = {"probes": {name: pod.probe(name) for name in ["startupProbe", "readinessProbe", "livenessProbe"]}}
    tls = any("PUBLIC__TLS" in entry["name"] for entry in pod.container.get("env", []))
    state = pod.root / "var/lib/tokenmint"
    seen["state"] = {
        f"tokenmint.{path.name}": [oct(path.stat().st_mode & 0o777), path.stat().st_uid] for path in state.iterdir()
    }
    public = pod.ports["public"]
    others = {path: ask(public, "GET", path, tls=tls)[0] for path in ["/identity-token", "/metrics", "/readyz"]}
    seen["public"] = {"scheme": "https" if tls else "http", "jwks": kids(pod, tls), "other paths": others}
    seen["minting"] = {
        f"{method} {path}": ask(pod.ports["minting"], method, path)[0]
        for method, path in [("POST", "/identity-token"), ("GET", "/metrics")]
    }
    for update in pod.updates:
        update()
    deadline = time.monotonic() + 10
    while len(kids(pod, tls)) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    seen["jwks after the Secret's update"] = kids(pod, tls)

    def bearing(credential):
        return {"Authorization": f"Bearer {credential}", "Content-Type": "application/json"}

    def minted(credential):
        return ask(pod.ports["minting"], "POST", "/identity-token", bearing(credential), '{"sub": "user-1"}')[0]

    seen["minted"] = minted(told["credential"])
    seen["minted with wrong credentials"] = [minted(credential) for credential in told["wrong credentials"]]
    seen["answers of the API server"] = api_server.answers if api_server else []
    credential = bearing(told["credential"])
    tokens = bundle(pod, credential)
    seen["bundle"] = tokens and {name: algorithm(token) for name, token in tokens.items()}
    secret = told["secrets"]["tokenmint-intercom-fin"][-1]["secret"]
    deadline = time.monotonic() + 10
    while tokens and not signed_with(tokens["intercom_user_jwt"], secret) and time.monotonic() < deadline:
        time.sleep(0.2)
        tokens = bundle(pod, credential)
    seen["new secret"] = tokens and signed_with(tokens["intercom_user_jwt"], secret)
    if told["hang"]:
        # A request that has begun and never ends: the longest that stopping takes.
        head = "".join(f"{name}: {value}\r\n" for name, value in credential.items())
        hanging = socket.create_connection(("127.0.0.1", pod.ports["minting"]))
        hanging.sendall(f"POST /identity-token HTTP/1.1\r\nHost: x\r\n{head}Content-Length: 10\r\n\r\n".encode())
    began = time.monotonic()
    pod.process.send_signal(signal.SIGTERM)
    seen["exit code"] = pod.process.wait(timeout=30)
    seen["seconds to stop"] = round(time.monotonic() - began, 1)
    print(json.dumps(seen))


main()
