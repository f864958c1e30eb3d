"""The measurements. Every comparison alternates its contestants within a round, so that other load on the machine affects all
of them alike. A ratio is computed from consecutive measurements."""

import json
import statistics
import time

import servers
from processes import memory_mib
from servers import Batching, FirstToken, Nginx, Sandbox, Tokenmint, api_key, http_request, identity_requests, write_requests

CONNECTIONS = (1, 16, 64, 256)
SATURATED = (16, 64, 256)
OURS = "tokenmint"
BATCHES = "tokenmint, eight at a time"
IMAGE = "tokenmint, the image's binary"


class Bench:
    """The binaries, a folder, the keys, the request files, and the amount of work."""

    def __init__(self, tools, binary, folder, peers, rounds, seconds, growth, tokens, library=None, static=None):
        self.tools, self.binary, self.folder, self.peers = tools, binary, folder, peers
        self.rounds, self.seconds, self.growth, self.tokens = rounds, seconds, growth, tokens
        self.library, self.static = library, static
        self.key = folder / "rsa2048.key"
        self.public_key = servers.make_key(self.key, 2048)
        self.key4096 = folder / "rsa4096.key"
        servers.make_key(self.key4096, 4096)
        self.identity = identity_requests(folder / "identity.requests")
        write = lambda name, *request: write_requests(folder / name, [http_request(*request)])
        self.jwks = write("jwks.requests", "GET", "/keysets/k00000/jwks.json")
        self.jwks_file = write("jwks-file.requests", "GET", "/jwks.json")
        self.livez = write("livez.requests", "GET", "/livez")
        self.access_token = write("access-token.requests", "POST", "/oauth-access-token", "{}", api_key(0))

    def tokenmint(self, name=OURS, key=None, kind=Tokenmint, binary=None, **size):
        folder = self.folder / name.replace(" ", "-").replace(",", "")
        return kind(name, binary or self.binary, folder, key or self.key, **size)

    def batching(self, name=BATCHES, **size):
        """The server with batched signing, as a list: empty without the library."""
        return [self.tokenmint(name, kind=Batching, library=self.library, **size)] if self.library else []

    def raw(self):
        return self.tools.sign(self.key, self.seconds / 2, servers.CORES)


def minting(bench, say):
    """Measures identity tokens of every server at 1 to 256 connections, and aws-lc-rs alone before and after each window.

    Returns name -> connections -> [(driven, CPU over raw, throughput over raw)], and the raw figures.
    """
    contestants = [bench.tokenmint(), bench.tokenmint(IMAGE, binary=bench.static), *bench.batching()]
    contestants += servers.minting_peers(bench.folder, bench.key, bench.peers)
    for contestant in contestants:
        say(f"checking {contestant.name}")
        with contestant as server:
            server.verify(bench.public_key)
    figures = {contestant.name: {n: [] for n in CONNECTIONS} for contestant in contestants}
    raws = []
    for turn in range(bench.rounds):
        raws.append(bench.raw())
        for contestant in contestants:
            say(f"round {turn + 1} of {bench.rounds}: {contestant.name}")
            with contestant as server:
                for n in CONNECTIONS:
                    driven = bench.tools.drive(server, bench.identity, n, bench.seconds)
                    raws.append(bench.raw())
                    cpu, throughput = (statistics.mean(pair) for pair in zip(*raws[-2:]))
                    figures[contestant.name][n].append((driven, driven.cpu_us / cpu, driven.per_second / throughput))
    return figures, raws


def isolation(bench, say):
    """Measures the latency of requests without a signature, while 256 connections keep all cores signing.

    Returns name -> probe -> [figures of a round], and name -> [driven] of the signing load.
    """
    found, loads = {}, {}

    def watch(server, probes):
        seconds = max(3.0, 2 * bench.seconds)
        seen = {}
        def beside():
            seen.update(bench.tools.probe(server, seconds - 1, probes))
        # The probes take the second half of the window and end within it.
        driven = bench.tools.drive(server, bench.identity, 256, seconds * 2, beside=beside)
        loads.setdefault(server.name, []).append(driven)
        for probe, figures in seen.items():
            found.setdefault(server.name, {}).setdefault(probe, []).append(figures)

    port = servers.free_port()
    salesforce = f"http://127.0.0.1:{port}"
    ours = [
        *(bench.tokenmint(f"{OURS}, RSA-{bits}", key, salesforce=salesforce)
          for bits, key in ((2048, bench.key), (4096, bench.key4096))),
        *bench.batching(f"{BATCHES}, RSA-2048", salesforce=salesforce),
    ]
    for turn in range(bench.rounds):
        for server in ours:
            say(f"round {turn + 1} of {bench.rounds}: what else answers beside {server.name}")
            with server:
                with Sandbox(bench.binary, server.folder, port, server.config, f"http://127.0.0.1:{server.port}"):
                    first_access_token(server)
                watch(server, {
                    "JWKS, new connections": ("new", bench.jwks),
                    "JWKS, kept connection": ("kept", bench.jwks),
                    "/livez, new connections": ("new", bench.livez),
                    "/livez, kept connection": ("kept", bench.livez),
                    "cached access token": ("kept", bench.access_token),
                })
    for peer in servers.minting_peers(bench.folder, bench.key, bench.peers):
        say(f"what else answers of {peer.name}")
        with peer as server:
            watch(server, {
                "/livez, new connections": ("new", bench.livez), "/livez, kept connection": ("kept", bench.livez),
            })
    return found, loads


def first_access_token(server):
    for cached in (False, True):
        status, content = server.ask("POST", "/oauth-access-token", "{}", api_key(0))
        if status != 200 or json.loads(content)["cached"] != cached:
            raise SystemExit(f"{server.name} has no access token to keep: {status} {content}")


def kept(bench, say):
    """Compares responses from memory, JWKS and cached access tokens, with nginx and the same bytes in a file.

    Returns name -> [driven].
    """
    nginx = bench.peers / "bin/nginx"
    port = servers.free_port()
    figures = {}
    salesforce = f"http://127.0.0.1:{port}"
    with (
        bench.tokenmint("memory", salesforce=salesforce) as ours,
        bench.tokenmint("memory, image", binary=bench.static, salesforce=salesforce) as image,
    ):
        for server in (ours, image):
            with Sandbox(bench.binary, server.folder, port, server.config, f"http://127.0.0.1:{server.port}"):
                first_access_token(server)
        bytes_of_jwks = ours.ask("GET", "/keysets/k00000/jwks.json")[1]
        caching = "open_file_cache max=100;"
        with (
            Nginx("nginx", nginx, bench.folder / "nginx", bytes_of_jwks) as file,
            Nginx("nginx, file cache", nginx, bench.folder / "nginx-caching", bytes_of_jwks, caching) as cached_file,
        ):
            if file.ask("GET", "/jwks.json")[1] != bytes_of_jwks:
                raise SystemExit("nginx answers something else than tokenmint")
            asked = [
                ("nginx, file", file, bench.jwks_file),
                ("tokenmint, JWKS", ours, bench.jwks),
                (f"{IMAGE}, JWKS", image, bench.jwks),
                ("tokenmint, cached access token", ours, bench.access_token),
                (f"{IMAGE}, cached access token", image, bench.access_token),
                ("nginx, file, open_file_cache", cached_file, bench.jwks_file),
            ]
            for turn in range(bench.rounds):
                say(f"round {turn + 1} of {bench.rounds}: JWKS and cached access tokens beside nginx")
                for name, server, requests in asked:
                    driven = bench.tools.drive(server, requests, 64, bench.seconds, threads=servers.CORES)
                    figures.setdefault(name, []).append(driven)
    return figures


def growth(bench, say):
    """Compares the CPU time of a token with thousands of callers, profiles or keys, and with one of each.

    Returns what -> [ratio], and what -> milliseconds to start.
    """
    many = bench.growth
    sizes = {
        f"{many:,} callers": {"callers": many},
        f"{many:,} profiles on one key": {"profiles": many},
        f"{many:,} keys, each with a keyset and a profile": {"keysets": many},
    }
    figures, starts = {}, {}
    with bench.tokenmint("one of each") as one:
        for what, size in sizes.items():
            profiles = max(size.get("profiles", 1), size.get("keysets", 1))
            requests = identity_requests(bench.folder / "grown.requests", size.get("callers", 1), profiles)
            say(f"starting with {what}")
            with bench.tokenmint(what, **size) as grown:
                starts[what] = grown.ready_ms
                for turn in range(bench.rounds):
                    say(f"round {turn + 1} of {bench.rounds}: {what}")
                    alone = bench.tools.drive(one, bench.identity, 16, bench.seconds)
                    driven = bench.tools.drive(grown, requests, 16, bench.seconds)
                    figures.setdefault(what, []).append(driven.cpu_us / alone.cpu_us)
    return figures, starts


def cache_growth(bench, say):
    say(f"keeping {bench.tokens:,} access tokens, each exchanged first")
    return bench.tools.cached_tokens(bench.tokens, max(5, bench.rounds), bench.key)


def small(bench, say):
    """Measures the time to start, the idle memory, and the latency of a bundle of two tokens compared with one token.

    Returns what -> [figure].
    """
    figures = {"ready_ms": [], "first_token_ms": [], "idle_mib": [], "image_idle_mib": []}
    for turn in range(5 * bench.rounds):
        say(f"start {turn + 1} of {5 * bench.rounds}")
        with bench.tokenmint("ready") as server:
            figures["ready_ms"].append(server.ready_ms)
            time.sleep(0.2)
            figures["idle_mib"].append(memory_mib(server.pids()))
        with bench.tokenmint("ready, image", binary=bench.static) as server:
            time.sleep(0.2)
            figures["image_idle_mib"].append(memory_mib(server.pids()))
        with FirstToken("first token", bench.binary, bench.folder / "first", bench.key) as server:
            figures["first_token_ms"].append(server.ready_ms)
    two = bench.folder / "two.requests"
    write_requests(two, [http_request("POST", "/bundle", '{"sub": "user-00001"}', api_key(0))])
    one = bench.folder / "one.requests"
    body = '{"sub": "user-00001", "profile": "p00000"}'
    write_requests(one, [http_request("POST", "/identity-token", body, api_key(0))])
    with bench.tokenmint("bundle", keysets=2, bundle=True) as server:
        for turn in range(bench.rounds):
            say(f"round {turn + 1} of {bench.rounds}: a bundle of two")
            alone, both = (bench.tools.drive(server, asked, 1, bench.seconds) for asked in (one, two))
            figures.setdefault("bundle", []).append(both.p50_ms / alone.p50_ms)
    return figures
