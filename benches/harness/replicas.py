"""Real replicas with one `tokenmint sandbox`: reads the parameters of the simulation from them, and counts their exchanges to
validate `fleet`."""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
import time
import urllib.request

import build
import servers
from fleet import Rules, Scenario
from servers import INTEGRATION_USER, Sandbox, Server, Tokenmint, api_key, app_names, free_port

SECONDS = {"millis": 0.001, "secs": 1, "mins": 60, "hours": 3600}


def sourced(path, pattern):
    """The groups of `pattern` in a source file, for parameters that no running service shows."""
    found = re.findall(pattern, (build.ROOT / path).read_text())
    if len(found) != 1:
        raise SystemExit(f"{path} has `{pattern}` {len(found)} times and not once: say in replicas.py what it is now")
    return found[0]


def duration(path, name):
    unit, number = sourced(path, rf"const {name}: Duration = Duration::from_(\w+)\((\d+)\);")
    return int(number) * SECONDS[unit]


class Redis(Server):
    """A redis-server without persistence, installed by tests/cache/setup."""

    def __init__(self, folder):
        ours = pathlib.Path(os.environ.get("TOKENMINT_TOOLS") or build.ROOT / "target/tools") / "bin/redis-server"
        program = ours if ours.exists() else shutil.which("redis-server")
        if program is None:
            raise SystemExit("there is no redis-server: run tests/cache/setup")
        command = [program, "--bind", "127.0.0.1", "--port", "@PORT@", "--save", "", "--dir", folder]
        super().__init__("redis", folder, command)

    def answers(self):
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as asked:
            asked.sendall(b"PING\r\n")
            return asked.recv(16).startswith(b"+PONG")


class Replicas:
    """`replicas` services with `profiles` of one user, with or without a shared Redis. A context manager."""

    def __init__(self, binary, folder, key, replicas, profiles=1, shared=False, logins_per_hour=None, **settings):
        folder.mkdir()
        self.binary, self.folder, self.key = binary, folder, key
        self.number, self.apps, self.shared = replicas, app_names(profiles), shared
        self.settings = settings
        """Settings of the sandbox."""
        self.environment = {}
        if logins_per_hour:
            names = [f"TOKENMINT_OAUTH__{app.upper()}__LOGINS_PER_HOUR" for app in self.apps]
            self.environment = dict.fromkeys(names, str(logins_per_hour))

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            salesforce = f"http://127.0.0.1:{free_port()}"
            more = f'[identity.p00000.messaging]\nscrt_url = "{salesforce}"\norg_id = "00D000000000001"\n'
            more += 'es_developer_name = "Web_Channel"\n'
            if self.shared:
                redis = stack.enter_context(Redis(self.folder))
                # The long timeout keeps a busy machine from counting as a slow Redis.
                more += f'[cache.redis]\nurl = "redis://127.0.0.1:{redis.port}"\nkey = "{"5a" * 32}"\ntimeout = "5s"\n'
            replica = lambda number: Tokenmint(
                f"replica-{number}", self.binary, self.folder / str(number), self.key, self.environment,
                salesforce=salesforce, apps=len(self.apps), more=more,
            )
            self.all = [stack.enter_context(replica(number)) for number in range(self.number)]
            first = self.all[0]
            port = int(salesforce.rpartition(":")[2])
            jwks = f"http://127.0.0.1:{first.port}"
            self.sandbox = stack.enter_context(Sandbox(self.binary, self.folder, port, first.config, jwks))
            self._control("settings", self.settings)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self._stack.close()

    def _control(self, what, body=None):
        url = f"http://127.0.0.1:{self.sandbox.port}/__sandbox/{what}"
        data = json.dumps(body).encode() if body is not None else None
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=10) as answer:
            return json.loads(answer.read() or "null")

    def seen(self):
        """The counts and the settings of the sandbox."""
        return self._control("state")

    def logins(self):
        return self.seen()["counts"]["logins"].get(INTEGRATION_USER, 0)

    @staticmethod
    def ask(server, path, **body):
        """Posts a request. Returns the status and the JSON of the response."""
        status, content = server.ask("POST", path, json.dumps(body), api_key(0))
        return status, json.loads(content)

    def access_token(self, server, app, **more):
        return self.ask(server, "/oauth-access-token", profile=f"oauth.{app}", **more)

    def together(self, act, *among):
        """Calls `act` with each of `among` at the same time."""
        with concurrent.futures.ThreadPoolExecutor(len(among)) as pool:
            return list(pool.map(lambda each: act(*each), among))

    def steady(self, seconds, every=0.1):
        """Requests every profile from every replica repeatedly for `seconds`. Returns the logins."""
        end = time.monotonic() + seconds

        def keep_asking(server, app):
            while time.monotonic() < end:
                status, answer = self.access_token(server, app)
                if status != 200:
                    raise SystemExit(f"{server.name}: {status} {answer}")
                time.sleep(every)

        self.together(keep_asking, *((server, app) for server in self.all for app in self.apps))
        return self.logins()

    def reject_repeatedly(self):
        """Rejects each token until the budget of every replica is used up. Returns the logins."""

        def reject_all(server):
            status, answer = self.access_token(server, self.apps[0])
            while status == 200:
                status, answer = self.access_token(server, self.apps[0], rejected_token=answer["access_token"])
            if status != 503 or "budget" not in answer["error_description"]:
                raise SystemExit(f"{server.name}: {status} {answer}")

        self.together(reject_all, *((server,) for server in self.all))
        return self.logins()

    def chat(self, users):
        """Sends a request of each of `users` to every replica. Returns the messaging requests and JWKS fetches."""

        def come(server, user):
            status, answer = self.ask(server, "/messaging-access-token", sub=f"user-{user}")
            if status != 200:
                raise SystemExit(f"{server.name}: {status} {answer}")

        self.together(come, *((server, user) for server in self.all for user in range(users)))
        counts = self.seen()["counts"]
        return counts["messaging"], counts["jwks_fetches"]


def rules(binary, folder, key):
    """Reads the parameters from a service and its sandbox with default settings."""
    with Replicas(binary, folder, key, replicas=1) as fleet:
        server = fleet.all[0]
        _, login = fleet.access_token(server, "crm")
        _, chat = fleet.ask(server, "/messaging-access-token", sub="user-1")
        metrics = server.ask("GET", "/metrics")[1].decode()
        jwks = urllib.request.urlopen(f"http://127.0.0.1:{server.port}/keysets/k00000/jwks.json", timeout=10)
        settings = fleet.seen()["settings"]
    if "access_token" not in login or "access_token" not in chat:
        raise SystemExit(f"no tokens to read the rules from: {login} {chat}")

    def budget(profile):
        """The budget of `profile`, computed from its used share after one request."""
        used = re.search(rf'tokenmint_login_budget_used_ratio{{profile="{profile}"}} (\S+)', metrics)
        if not used:
            raise SystemExit(f"no metric shows the budget of {profile}")
        return round(1 / float(used[1]))

    more, least = sourced("src/exchange/token.rs", r"([\d.]+)_f64\.mul_add\(fraction, ([\d.]+)\)")
    return Rules(
        logins_per_hour=budget("oauth.crm"),
        requests_per_minute=budget("identity.p00000"),
        access_token_life=login["expires_at"] - login["obtained_at"],
        messaging_life=chat["expires_at"] - chat["obtained_at"],
        renew_from=float(least),
        renew_to=float(least) + float(more),
        shortest_wait=duration("src/exchange/negative_cache.rs", "MIN_RETRY_AFTER"),
        longest_wait=duration("src/exchange/negative_cache.rs", "MAX_RETRY_AFTER"),
        max_age=int(re.search(r"max-age=(\d+)", jwks.headers["Cache-Control"])[1]),
        salesforce_logins=settings["logins_per_hour"],
        salesforce_messaging=settings["messaging_per_minute"],
    )
