"""CPU time and memory of processes, and the programs that generate load.

CPU time is the user and system time of a whole process tree. The load generator is accounted for separately.
"""

import json
import os
import pathlib
import subprocess
import time
from dataclasses import dataclass

TICK = os.sysconf("SC_CLK_TCK")


def stat(pid):
    """The fields of /proc/PID/stat after the command name, which may contain any character."""
    text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    return text.rpartition(")")[2].split()


def tree(pid):
    """`pid` and all its descendants."""
    children = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                children.setdefault(int(stat(entry.name)[1]), []).append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                pass  # it has just ended
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found


def cpu_seconds(pids):
    """User and system time, including ended children."""
    return sum(sum(map(int, stat(pid)[11:15])) for pid in pids) / TICK


def machine_seconds():
    """User and system time of all processes, without time stolen by a hypervisor (proc(5), /proc/stat)."""
    user, nice, system, _, _, irq, softirq = map(int, pathlib.Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / TICK


def memory_mib(pids):
    """Resident memory. Memory that the processes share counts once (PSS)."""
    if len(pids) == 1:
        lines = pathlib.Path(f"/proc/{pids[0]}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024
    def pss(pid):
        lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return sum(map(pss, pids)) / 1024


@dataclass
class Driven:
    """The figures of one window of load."""

    per_second: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    cpu_us: float
    """CPU time of the server for each response."""
    generator_cpu_us: float
    busy_cores: float
    """Average number of busy cores of the server."""
    generator_cores: float
    memory_mib: float
    reconnects: int
    """Connections that the server closed between responses."""
    shed: int
    """Responses with 503, not included in the other figures."""


class Tools:
    """The bench binaries."""

    def __init__(self, load, raw, in_process):
        self.load, self.raw, self.in_process = load, raw, in_process
        self.others = []
        """Busy cores of other processes, in each window without probes."""

    def drive(self, server, requests, connections, seconds, threads=1, beside=None):
        """Keeps `connections` busy for `seconds`, after a warm-up of 0.35 s.

        `beside` runs within the window. If it is given, the server may shed load.
        """
        address = f"127.0.0.1:{server.port}"
        command = [str(self.load), "drive", address, str(requests), str(threads), str(connections), "0.35", str(seconds)]
        command += ["shedding"] if beside else []
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            pids = server.pids()
            self._said(child, "begin", server)
            before, own, everybody = cpu_seconds(pids), cpu_seconds([child.pid]), machine_seconds()
            time.sleep(seconds * 0.5)
            if beside:
                beside()
            memory = memory_mib(pids)
            self._said(child, "end", server)
            spent, own = cpu_seconds(pids) - before, cpu_seconds([child.pid]) - own
            everybody = machine_seconds() - everybody
            counted = json.loads(child.stdout.readline() or "null")
            if child.wait() != 0 or not counted or not counted["count"]:
                raise SystemExit(f"{server.name}: no answers\n{child.stderr.read()}{server.last_words()}")
        finally:
            child.kill()
            child.wait()
        answers, window = counted["count"], counted["seconds"]
        if not beside:
            self.others.append((everybody - spent - own) / window)
        return Driven(
            per_second=answers / window,
            **{name: counted[name] for name in ("p50_ms", "p99_ms", "p999_ms", "max_ms")},
            cpu_us=spent / answers * 1e6,
            generator_cpu_us=own / answers * 1e6,
            busy_cores=spent / window,
            generator_cores=own / window,
            memory_mib=memory,
            reconnects=counted["reconnects"],
            shed=counted["shed"],
        )

    @staticmethod
    def _said(child, word, server):
        if child.stdout.readline().strip() != word:
            raise SystemExit(f"{server.name}: the load ended early\n{child.stderr.read()}{server.last_words()}")

    def probe(self, server, seconds, probes, every_ms=5):
        """Latencies of each of `probes`, name -> (new|kept, requests), in milliseconds."""
        named = [f"{name}={kind}={requests}" for name, (kind, requests) in probes.items()]
        command = [self.load, "probe", f"127.0.0.1:{server.port}", str(every_ms), str(seconds), *named]
        ran = subprocess.run(command, capture_output=True, text=True)
        if ran.returncode != 0:
            raise SystemExit(f"{server.name}: a probe failed\n{ran.stderr}{server.last_words()}")
        return json.loads(ran.stdout)

    def sign(self, key, seconds, threads):
        """aws-lc-rs alone: microseconds of CPU for a signature, and signatures per second."""
        command = [self.raw, str(key), str(seconds), str(threads)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        made = json.loads(child.stdout.read())
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        cpu = usage.ru_utime + usage.ru_stime
        return cpu / made["signatures"] * 1e6, made["signatures"] / made["seconds"]

    def cached_tokens(self, tokens, rounds, key):
        """See `in_process cache` in benches/in_process.rs."""
        command = [self.in_process, "cache", str(tokens), str(rounds), str(key)]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
