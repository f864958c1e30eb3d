"""What cargo builds for the harness, and where it puts it."""

import json
import os
import pathlib
import platform
import shutil
import subprocess

ROOT = pathlib.Path(__file__).parents[2]
CARGO = os.environ.get("CARGO", "cargo")


def built(*arguments, **environment):
    """Runs cargo; name -> path of each executable that came of it."""
    command = [CARGO, *arguments, "--locked", "--message-format=json-render-diagnostics"]
    ran = subprocess.run(command, cwd=ROOT, env=os.environ | environment, check=True, stdout=subprocess.PIPE, text=True)
    messages = [json.loads(line) for line in ran.stdout.splitlines()]
    return {
        message["target"]["name"]: pathlib.Path(message["executable"])
        for message in messages
        if message["reason"] == "compiler-artifact" and message["executable"]
    }


def service(*arguments):
    """The binary as it ships, in a copy: building the benches lays the original anew, with what they want of its
    dependencies."""
    original = built("build", "--profile", "dist", "--bin", "tokenmint", *arguments)["tokenmint"]
    return pathlib.Path(shutil.copy2(original, original.with_name("tokenmint-as-it-ships")))


def static_service():
    """The binary that the image has."""
    return service("--target", f"{platform.machine()}-unknown-linux-musl")


def benches(*names):
    """Bench targets, built as the service is."""
    return built("bench", "--profile", "dist", "--no-run", *(part for name in names for part in ("--bench", name)))


def counted_in_process():
    """`in_process` for callgrind: a release, built with the binary that `make chaos-short` takes."""
    return built("build", "--release", "--bin", "tokenmint", "--bench", "in_process")["in_process"]
