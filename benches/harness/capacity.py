"""`make capacity`: measures the signatures of a core, plans the number of replicas, and simulates the requests of a thousand
replicas to Salesforce. Writes the results into docs/capacity.md.

CAPACITY_PAGES    page loads a second to plan for (10,100,1000,10000)
CAPACITY_CORES    number of cores of a replica (2)
CAPACITY_ROUNDS   rounds, each of which measures everything once (3)
CAPACITY_SECONDS  seconds of each window of load (2)
"""

import math
import os
import pathlib
import statistics
import sys
import tempfile
import time

import build
import replicas
import report
import servers
from fleet import DAY, HOUR, Scenario, chats, fetches, least, logins
from processes import Tools
from report import spread, table
from servers import Tokenmint, api_key, http_request, identity_requests, write_requests

PAGE = build.ROOT / "docs/capacity.md"
BITS = (2048, 3072, 4096)
SATURATED = 16
"""Connections that keep all cores busy."""
USERS_PER_MINUTE, VISITS = 100, 5
"""Of the busiest hour of chats: new users a minute, and requests of each user."""
REJECTIONS_PER_SECOND = 20.0
"""How many tokens a broken caller rejects in a second."""


def measure(tools, binary, folder, rounds, seconds, say):
    """Returns key size -> measurement -> [figure], and the bytes of the JWKS. Each round measures everything in turn."""
    requests = {
        "token": identity_requests(folder / "token.requests", profiles=2),
        "jwks": write_requests(folder / "jwks.requests", [http_request("GET", "/keysets/k00000/jwks.json")]),
    }
    ask = lambda user: http_request("POST", "/bundle", f'{{"sub": "user-{user:05}"}}', api_key(0))
    requests["bundle"] = write_requests(folder / "bundle.requests", map(ask, range(servers.USERS)))
    keys = {bits: folder / f"rsa{bits}.key" for bits in BITS}
    figures = {bits: {} for bits in BITS}
    for bits, key in keys.items():
        servers.make_key(key, bits)
    for turn in range(rounds):
        for bits, key in keys.items():
            say(f"round {turn + 1} of {rounds}: RSA-{bits}")
            seen = figures[bits]
            add = lambda what, figure: seen.setdefault(what, []).append(figure)
            before = tools.sign(key, seconds, servers.CORES)[0]
            with Tokenmint(f"rsa{bits}", binary, folder / str(bits), key, profiles=2, bundle=True) as server:
                seen["bytes"] = len(server.ask("GET", "/keysets/k00000/jwks.json")[1])
                for what in ("token", "bundle", "jwks"):
                    add(what, tools.drive(server, requests[what], SATURATED, seconds))
                add("alone", tools.drive(server, requests["token"], 1, seconds))
            add("raw", statistics.mean([before, tools.sign(key, seconds, servers.CORES)[0]]))
    return figures


def measured(figures, rules):
    """The tables of one core: signatures, tokens and JWKS fetches."""
    rows, fetched = [], []
    room = int(replicas.sourced("src/sandbox/keyset.rs", r"const MAX_JWKS_BYTES: usize = (\d+) << 10;")) << 10
    for bits, seen in figures.items():
        token, alone, jwks = seen["token"], seen["alone"], seen["jwks"]
        column = lambda driven, name, form="{:,.2f}": spread([getattr(one, name) for one in driven], form)
        busy = statistics.median(one.busy_cores for one in alone)
        rows.append([
            f"RSA-{bits}", spread(seen["raw"], "{:,.0f}"), column(token, "cpu_us", "{:,.0f}"),
            spread([one.cpu_us / raw for one, raw in zip(token, seen["raw"])]),
            spread([1e6 / one.cpu_us for one in token], "**{:,.0f}**"), column(seen["bundle"], "cpu_us", "{:,.0f}"),
            f"{column(alone, 'p99_ms')} ({busy / servers.CORES:.0%})", column(token, "p99_ms"),
        ])
        per_second = 1e6 / statistics.median(one.cpu_us for one in jwks)
        fetched.append([
            f"RSA-{bits}", f"{seen['bytes']:,}", room // seen["bytes"], column(jwks, "cpu_us", "{:,.0f}"),
            f"{per_second:,.0f}", column(jwks, "p99_ms"), f"{per_second * rules.max_age:,.0f}",
        ])
    head = ["key", "signature alone, µs", "token, µs", "token over signature", "**tokens/s and core**", "bundle of two, µs"]
    head += ["p99 ms, 1 connection (cores busy)", f"p99 ms, {SATURATED} connections"]
    of_jwks = ["JWKS of one key", "bytes", f"keys in {room >> 10} KiB", "fetch, µs", "fetches/s and core"]
    of_jwks += [f"p99 ms, {SATURATED} connections", f"caches that a core keeps fresh, each every {rules.max_age} s"]
    return f"### A core\n\n{table(head, rows)}\n\n{table(of_jwks, fetched)}"


def planned(figures, pages, cores):
    """The table of replicas for the planned page loads."""
    target = int(replicas.sourced(
        "deploy/kubernetes/base/horizontalpodautoscaler.yaml", r"averageUtilization: (\d+)",
    )) / 100
    cost = lambda bits, what: statistics.median(one.cpu_us for one in figures[bits][what]) / 1e6
    kinds = [(bits, what) for bits in BITS for what in ("token", "bundle")]
    rows = [
        [f"{each:,}", *(replicas_for(each, cost(*kind), cores, target) for kind in kinds)] for each in pages
    ]
    head = ["page loads/s", *(f"RSA-{bits}, {'one token' if what == 'token' else 'two'}" for bits, what in kinds)]
    words = f"Replicas of {cores:g} cores, {target:.0%} busy at the peak, and one more:"
    return f"### Replicas\n\n{words}\n\n{table(head, rows)}"


def replicas_for(pages, cpu_seconds, cores, target):
    """The number of replicas that are `target` busy, and one spare replica."""
    return math.ceil(pages * cpu_seconds / (cores * target)) + 1


def met_at(rules, profiles):
    """The least number of replicas with refused logins, in four hours with a deployment in the middle."""
    hours = lambda number: Scenario(number, profiles, shared=False, seconds=4 * HOUR, rollout=2 * HOUR)
    return least(lambda number: logins(rules, hours(number)).refused)


def rejections_met_at(rules):
    hours = lambda number: Scenario(number, 1, False, seconds=2 * HOUR, rejecting=(HOUR, HOUR, REJECTIONS_PER_SECOND))
    return least(lambda number: logins(rules, hours(number)).refused)


def chats_met_at(rules):
    return least(lambda number: chats(rules, number, False, USERS_PER_MINUTE, VISITS).refused)


def simulated(rules):
    """The tables of the simulation. Deterministic: the same rules give the same text."""
    both = lambda act: [act(shared) for shared in (False, True)]
    of_day, of_rejections, of_chats, of_jwks = [], [], [], []
    for profiles in (1, 3):
        for number in (1, 10, 100, 1000):
            days = both(lambda shared: logins(rules, Scenario(number, profiles, shared)))
            cells = [f"{cell:,}" for day in days for cell in (day.granted, day.busiest_hour, day.refused)]
            of_day.append([f"{number:,}", profiles, *cells])
    for number in (1, 10, 100, 1000):
        rejecting = (14 * HOUR, HOUR, REJECTIONS_PER_SECOND)
        hours = both(lambda shared: logins(rules, Scenario(number, 1, shared, seconds=15 * HOUR, rejecting=rejecting)))
        cells = [f"{cell:,}" for hour in hours for cell in (hour.busiest_hour, hour.refused)]
        of_rejections.append([f"{number:,}", *cells])
    for number in (1, 2, 10, 100, 1000):
        hours = both(lambda shared: chats(rules, number, shared, USERS_PER_MINUTE, VISITS))
        cells = [f"{cell:,}" for hour in hours for cell in (hour.granted, hour.busiest_minute, hour.refused)]
        of_chats.append([f"{number:,}", *cells])
    for spread_over, words in ((1, "within one second"), (HOUR, "within an hour")):
        total, peak = fetches(rules, 1000, spread_over)
        of_jwks.append([words, f"{total:,}", f"{total / DAY:.1f}", f"{peak:,}"])

    one, three, rejections_of, chats_of = met_at(rules, 1), met_at(rules, 3), rejections_met_at(rules), chats_met_at(rules)
    alone_and_shared = lambda *columns: [f"{column}, {how}" for how in ("each alone", "Redis") for column in columns]
    own, per_minute = rules.logins_per_hour, rules.requests_per_minute
    return "\n\n".join([
        f"The running service says: {own} logins an hour and {per_minute} messaging requests a minute "
        f"(`logins_per_hour`, `requests_per_minute`), access tokens that live {rules.access_token_life:,} s, messaging "
        f"tokens that live {rules.messaging_life:,} s, a JWKS with `max-age={rules.max_age}`. Its sandbox: "
        f"{rules.salesforce_logins:,} logins of a user an hour, {rules.salesforce_messaging} messaging requests of an org "
        f"a minute. The sources: renewal at {rules.renew_from:.0%} to {rules.renew_to:.0%} of a token's life, and a "
        f"failure that stands for {rules.longest_wait:g} s at most.",
        "### Logins of one integration user, a day with two rolling deployments",
        table(["replicas", "profiles", *alone_and_shared("logins", "busiest hour", "refused")], of_day),
        f"Each alone, the user's limit is met at about **{one:,} replicas** with one profile, and **{three:,}** with three. "
        "With Redis the logins are those of one replica, however many there are; a few more, as the first to renew renews for "
        "all.",
        f"### A caller that rejects every token, {REJECTIONS_PER_SECOND:g} times a second, for an hour",
        table(["replicas", *alone_and_shared("busiest hour", "refused")], of_rejections),
        f"Each alone, the budgets of **{rejections_of} replicas** together pass the limit, and everybody else who logs in as "
        f"that user is locked out with them. With Redis all of them keep to {own}.",
        f"### Messaging access tokens, {USERS_PER_MINUTE} new users a minute, each asking {VISITS} times, the busiest "
        "hour",
        table(["replicas", *alone_and_shared("requests", "busiest minute", "refused")], of_chats),
        f"Each alone, the org's limit is met at **{chats_of} replicas**: a user is exchanged for on each replica that "
        "they come by. With Redis it is one request for each user, whatever the number of replicas.",
        "### A thousand caches of one JWKS, a day",
        table(["they start", "fetches", "a second", "most within a second"], of_jwks),
        "A verifier that keeps none fetches one for each verification: at the org's limit of messaging requests, "
        f"{rules.salesforce_messaging / 60:.1f} a second.",
    ])


def main():
    binary, benches = build.service(), build.benches("load", "raw")
    settings = {
        "CAPACITY_PAGES": "10,100,1000,10000", "CAPACITY_CORES": "2", "CAPACITY_ROUNDS": "3", "CAPACITY_SECONDS": "2",
    }
    settings = {name: os.environ.get(name, default) for name, default in settings.items()}
    pages, cores, rounds, seconds = settings.values()
    command = " ".join([*(f"{name}={value}" for name, value in settings.items()), "make capacity"])
    run(binary, Tools(benches["load"], benches["raw"], None), command, pages, float(cores), int(rounds), float(seconds))


def run(binary, tools, command, pages, cores, rounds, seconds):
    begin = time.monotonic()

    def say(what):
        print(f"{time.monotonic() - begin:4.0f} s  {what}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="tokenmint-capacity-") as folder:
        folder = pathlib.Path(folder)
        figures = measure(tools, binary, folder, rounds, seconds, say)
        say("reading the rules")
        rules = replicas.rules(binary, folder / "rules", folder / f"rsa{BITS[0]}.key")
    about = report.about(command, time.monotonic() - begin, tools.others, report.version(binary))
    sections = [about, measured(figures, rules), planned(figures, list(map(int, pages.split(","))), cores)]
    say("a day of a thousand replicas")
    for what, text in (("figures", "\n\n".join(sections)), ("simulation", simulated(rules))):
        print(text, end="\n\n")
        report.write(PAGE, text, what, "capacity")


if __name__ == "__main__":
    main()
