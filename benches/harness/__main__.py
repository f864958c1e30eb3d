"""`make bench`: see benches/README.md.

BENCH_ROUNDS   rounds, each of which measures everything once (3)
BENCH_SECONDS  seconds of each window of load (2)
BENCH_GROWTH   number of callers, profiles and keys in the scaling measurement (10000)
BENCH_TOKENS   number of cached access tokens (1000000)
BENCH_QUICK=1  one round of one second, a thousand callers, 20,000 tokens: a test of the harness
"""

import os
import pathlib
import sys
import tempfile
import time

import build
import custody
import jwts
import measures
import report
from processes import Tools

README = build.ROOT / "benches/README.md"


def main():
    peers = pathlib.Path(os.environ["TOKENMINT_TOOLS"]) / "bench"
    binary, static, benches = build.service(), build.static_service(), build.benches("load", "raw", "in_process")
    quick = os.environ.get("BENCH_QUICK") == "1"
    settings = {
        "BENCH_ROUNDS": 1 if quick else 3,
        "BENCH_SECONDS": 1 if quick else 2,
        "BENCH_GROWTH": 1_000 if quick else 10_000,
        "BENCH_TOKENS": 20_000 if quick else 1_000_000,
    }
    settings = {name: type(default)(os.environ.get(name, default)) for name, default in settings.items()}
    begin = time.monotonic()

    def say(what):
        print(f"{time.monotonic() - begin:4.0f} s  {what}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="tokenmint-bench-") as folder:
        tools = Tools(benches["load"], benches["raw"], benches["in_process"])
        library = peers.parent / "crypto_mb/lib/libcrypto_mb.so.13"
        library = library if library.exists() else None
        bench = measures.Bench(tools, binary, pathlib.Path(folder), peers, *settings.values(), library, static)
        started = measures.small(bench, say)
        minted, raws = measures.minting(bench, say)
        beside = measures.isolation(bench, say)
        from_memory = measures.kept(bench, say)
        grown = measures.growth(bench, say)
        cache = measures.cache_growth(bench, say)
        others = jwts.measure(bench, say)
        stores = custody.measure(bench, say)

    targets = report.Targets()
    sections = [
        report.minting(minted, raws, targets),
        report.isolation(*beside, targets),
        report.kept(from_memory, targets),
        report.growth(*grown, cache, targets),
        jwts.section(others, targets, report.table, report.spread),
        custody.section(stores, targets, report.table, report.spread),
    ]
    report.small(started, binary.stat().st_size / 1e6, minted, targets)
    command = " ".join([*(f"{name}={value}" for name, value in settings.items()), "make bench"])
    results = report.compose(targets, sections, command, time.monotonic() - begin, bench, tools.others)
    print(results)
    report.write_of_this_machine(README, results)


main()
