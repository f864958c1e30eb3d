"""Formats the figures as Markdown tables: first the targets and whether they are met, then the details."""

import datetime
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys

import build
from measures import BATCHES, CONNECTIONS, IMAGE, OURS, SATURATED


def spread(values, form="{:.2f}"):
    """The median and, in brackets, the minimum and maximum of the rounds."""
    values = list(values)
    middle = form.format(statistics.median(values))
    if len(values) == 1:
        return middle
    return f"{middle} [{form.format(min(values))}–{form.format(max(values))}]"


def table(head, rows):
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


class Targets:
    """The table of targets: the measurement, its figure, the goal, and whether the median meets it."""

    def __init__(self):
        self.rows = []

    def below(self, what, values, goal, form="{:.1f}", unit=""):
        self._add(what, values, f"{form.format(goal)}{unit}", statistics.median(values) <= goal, "≤", form, unit)

    def above(self, what, values, goal, form="{:.2f}", unit=""):
        self._add(what, values, f"{form.format(goal)}{unit}", statistics.median(values) >= goal, "≥", form, unit)

    def _add(self, what, values, goal, met, sign, form, unit):
        self.rows.append([what, spread(values, form) + unit, f"{sign} {goal}", "yes" if met else "**no**"])

    def table(self):
        return table(["target", "figure", "goal", "met"], self.rows)


def minting(figures, raws, targets):
    ours = figures[OURS]
    for n in SATURATED:
        targets.below(f"server CPU per token over raw, {n} connections", [cpu for _, cpu, _ in ours[n]], 1.08, "{:.3f}")
    for n in SATURATED:
        share = [share for _, _, share in ours[n]]
        targets.above(f"tokens/s over what the cores can sign, {n} connections", share, 0.95, "{:.3f}")
    if BATCHES in figures:
        batches(figures, targets)
    rows = []
    for name, by_connections in figures.items():
        for n in CONNECTIONS:
            driven = [one for one, _, _ in by_connections[n]]
            column = lambda attribute, form="{:.2f}": spread([getattr(one, attribute) for one in driven], form)
            rows.append([
                name, n, column("per_second", "{:,.0f}"), spread(cpu for _, cpu, _ in by_connections[n]),
                spread(share for _, _, share in by_connections[n]), column("p50_ms"), column("p99_ms"),
                column("p999_ms"), column("memory_mib", "{:.0f}"), column("generator_cores"),
            ])
    head = ["who", "connections", "tokens/s", "CPU per token over raw", "of what the cores can sign"]
    head += ["p50 ms", "p99 ms", "p99.9 ms", "memory MiB", "generator's cores"]
    cpu, throughput = zip(*raws)
    raw = f"aws-lc-rs alone: {spread(cpu, '{:.0f}')} µs of CPU a signature, "
    raw += f"{spread(throughput, '{:,.0f}')} a second on all cores."
    closed = {
        name: sum(one.reconnects for rounds in by_connections.values() for one, _, _ in rounds)
        for name, by_connections in figures.items()
    }
    note = "; ".join(f"{name}: {count:,}" for name, count in closed.items() if count) or "none"
    closed = f"Kept connections that a server closed between two answers: {note}."
    return f"### Minting\n\n{raw}\n\n{table(head, rows)}\n\n{closed}"


def batches(figures, targets):
    """Compares batched signing with single signatures, and with the peers."""
    ours = figures[BATCHES]
    def over(peer, n, attribute):
        pairs = zip(ours[n], figures[peer][n])
        return [getattr(our, attribute) / getattr(their, attribute) for (our, _, _), (their, _, _) in pairs]
    for n in SATURATED:
        what = f"eight at a time: server CPU per token over raw, {n} connections"
        targets.below(what, [cpu for _, cpu, _ in ours[n]], 0.45, "{:.3f}")
    for peer, goal in ((OURS, 2.2), ("Node, fastify + jose", 2.5), ("Ruby, key parsed per call", 10)):
        peer_name = "one at a time" if peer == OURS else peer
        targets.above(f"eight at a time: tokens/s over {peer_name}, 64 connections", over(peer, 64, "per_second"), goal)
    for n, goal in ((1, 1.05), (16, 1.0), (64, 1.0)):
        targets.below(f"eight at a time: p50 over one at a time, {n} connections", over(OURS, n, "p50_ms"), goal, "{:.2f}")
    for n in (16, 64):
        targets.below(f"eight at a time: p99 over one at a time, {n} connections", over(OURS, n, "p99_ms"), 1.0, "{:.2f}")


def isolation(found, loads, targets):
    rows = []
    for name, probes in found.items():
        for probe, rounds in probes.items():
            column = lambda quantile: spread([figures[quantile] for figures in rounds])
            asked = sum(figures["count"] for figures in rounds)
            rows.append([name, probe, f"{asked:,}", *map(column, ("p50_ms", "p99_ms", "p999_ms", "max_ms"))])
            if name.startswith(OURS):
                goal = 10 if "access token" in probe else 5
                p99 = [figures["p99_ms"] for figures in rounds]
                what = f"{probe}, p99 beside 256 connections that mint ({name.removeprefix(f'{OURS}, ')})"
                targets.below(what, p99, goal, "{:.1f}", " ms")
    head = ["who mints", "what is asked for", "times", "p50 ms", "p99 ms", "p99.9 ms", "worst ms"]
    minted = "; ".join(
        f"{name}: {spread([one.per_second for one in driven], '{:,.0f}')} tokens/s, "
        f"{sum(one.shed for one in driven):,} refused with 503"
        for name, driven in loads.items()
    )
    return f"### Beside 256 connections that mint\n\n{table(head, rows)}\n\nMinted meanwhile: {minted}."


def kept(figures, targets):
    nginx = figures["nginx, file"]
    rows = []
    for name, driven in figures.items():
        faster = [one.per_second / base.per_second for one, base in zip(driven, nginx)]
        dearer = [one.cpu_us / base.cpu_us for one, base in zip(driven, nginx)]
        if name == "tokenmint, JWKS":
            targets.above("JWKS requests/s over nginx with a file", faster, 1.0)
            targets.below("CPU of a JWKS over nginx with a file", dearer, 1.0, "{:.2f}")
        if name == "tokenmint, cached access token":
            targets.above("cached access tokens/s over nginx with a file", faster, 0.9)
        column = lambda attribute, form="{:.2f}": spread([getattr(one, attribute) for one in driven], form)
        rows.append([
            name, column("per_second", "{:,.0f}"), spread(faster), column("cpu_us", "{:.1f}"), spread(dearer),
            column("p99_ms"), column("busy_cores"), column("generator_cores"),
        ])
    head = ["who", "requests/s", "over nginx", "µs of CPU", "over nginx", "p99 ms", "server's cores", "generator's cores"]
    return f"### From memory, 64 connections\n\n{table(head, rows)}"


def growth(figures, starts, cache, targets):
    rows = []
    for what, ratios in figures.items():
        targets.below(f"CPU of a token with {what} over one of each", ratios, 1.05, "{:.3f}")
        rows.append([what, spread(ratios, "{:.3f}"), f"{starts[what]:,.0f}"])
    tokens = f"{cache['tokens']:,}"
    ratios = [many / one for one, many in zip(cache["hit_us_one"], cache["hit_us_many"])]
    targets.below(f"a hit among {tokens} kept tokens over one among 1", ratios, 2.0, "{:.2f}")
    hits = (
        f"A hit takes {spread(cache['hit_us_one'])} µs with 1 token kept and {spread(cache['hit_us_many'])} µs with "
        f"{tokens} (in one thread, through the router, tokens drawn here and there); a kept token of 1,000 bytes takes "
        f"{cache['bytes_per_token']:,} bytes of memory."
    )
    head = ["with", "CPU of a token over one of each", "start, ms"]
    return f"### As work grows, 16 connections\n\n{table(head, rows)}\n\n{hits}"


def small(figures, megabytes, minted, targets):
    targets.below("memory when idle", figures["idle_mib"], 12, unit=" MiB")
    targets.below("memory when idle, the image's binary", figures["image_idle_mib"], 12, unit=" MiB")
    for name, which in ((OURS, ""), (IMAGE, ", the image's binary")):
        loaded = [driven.memory_mib for driven, _, _ in minted[name][256]]
        targets.below(f"memory under 256 connections{which}", loaded, 32, unit=" MiB")
    targets.below("binary", [megabytes], 10, unit=" MB")
    targets.below("exec to ready", figures["ready_ms"], 50, unit=" ms")
    targets.below("exec to the first token", figures["first_token_ms"], 60, unit=" ms")
    targets.below("a bundle of two over one token, 1 connection", figures["bundle"], 1.1, "{:.2f}")


def said(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def version(binary):
    commit = said("git", "-C", str(build.ROOT), "rev-parse", "--short", "HEAD")
    lock = (build.ROOT / "Cargo.lock").read_text()
    aws_lc = re.search(r'name = "aws-lc-rs"\nversion = "(.*?)"', lock)[1]
    return f"{said(str(binary), '--version')} at {commit}, {said('rustc', '--version')}, aws-lc-rs {aws_lc}"


def versions(binary, peers):
    """The versions of all compared programs, one line each."""
    package = lambda name: re.search(
        r'"version": "(.*?)"', (peers / "node_modules" / name / "package.json").read_text()
    )[1]
    pip = said(sys.executable, "-m", "pip", "freeze", "--disable-pip-version-check").splitlines()
    python = dict(line.split("==") for line in pip if "==" in line)
    ruby = said("ruby", "-e", 'puts %w[puma jwt openssl].map { |n| "#{n} #{Gem::Specification.find_by_name(n).version}" }')
    nginx = subprocess.run([peers / "bin/nginx", "-v"], capture_output=True, text=True).stderr
    return [
        version(binary),
        f"Node {said('node', '--version')}: fastify {package('fastify')}, jose {package('jose')}, "
        f"jsonwebtoken {package('jsonwebtoken')}",
        f"Python {platform.python_version()}: FastAPI {python['fastapi']}, PyJWT {python['PyJWT']}, "
        f"cryptography {python['cryptography']}, uvicorn {python['uvicorn']} with uvloop and httptools",
        f"{' '.join(said('ruby', '--version').split()[:2])}: {ruby.replace(chr(10), ', ')}",
        nginx.strip().replace("nginx version: nginx/", "nginx "),
    ]


def processor():
    info = pathlib.Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", info)
    ifma = "with" if "avx512ifma" in info else "without"
    return f"{model[1].replace('(R)', '') if model else platform.machine()} {ifma} AVX-512 IFMA"


def machine():
    return f"{len(os.sched_getaffinity(0))} cores of {processor()}, Linux {platform.release()}"


def about(settings, took, others, *lines):
    """Says when, where and how the figures were measured."""
    busy = statistics.median(others) > 0.1
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    listed = [
        *(["**The machine was busy with other things, so these figures say little.**"] if busy else []),
        f"`{settings}` on {date}; it took {took / 60:.0f} minutes.",
        f"{machine()}. Other processes meanwhile: {spread(others)} cores.",
        *lines,
    ]
    return "\n".join(f"- {line}" for line in listed)


def compose(targets, sections, settings, took, bench, others):
    head = about(settings, took, others, *versions(bench.binary, bench.peers))
    return "\n\n".join([head, "### Targets", targets.table(), *sections])


def around(page, what, target):
    """The text of `page` before, between and after the marks between which `make target` writes."""
    begin, end = f"<!-- {what}: written by make {target} -->", f"<!-- end of {what} -->"
    before, rest = page.read_text().split(begin)
    between, after = rest.split(end)
    return f"{before}{begin}\n\n", between.strip("\n"), f"\n\n{end}{after}"


def write(page, results, what="results", target="bench"):
    before, _, after = around(page, what, target)
    page.write_text(f"{before}{results}{after}")


def write_of_this_machine(page, results):
    """Replaces the results of this kind of processor, and keeps those of other processors."""
    ours = f"## On {processor()}\n"
    _, between, _ = around(page, "results", "bench")
    others = [section.strip() for section in re.split(r"(?m)^(?=## On )", between) if section.strip()]
    write(page, "\n\n".join([f"{ours}\n{results}", *(other for other in others if not other.startswith(ours))]))
