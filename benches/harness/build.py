"""Builds the binaries for the harness with cargo."""

import json
import os
import pathlib
import platform
import shutil
import subprocess

ROOT = pathlib.Path(__file__).parents[2]
CARGO = os.environ.get("CARGO", "cargo")


def built(*arguments, **environment):
    """Runs cargo. Returns name -> path of each executable that it built."""
    command = [CARGO, *arguments, "--locked", "--message-format=json-render-diagnostics"]
    ran = subprocess.run(command, cwd=ROOT, env=os.environ | environment, check=True, stdout=subprocess.PIPE, text=True)
    messages = [json.loads(line) for line in ran.stdout.splitlines()]
    return {
        message["target"]["name"]: pathlib.Path(message["executable"])
        for message in messages
        if message["reason"] == "compiler-artifact" and message["executable"]
    }


def service(*arguments):
    """A copy of the shipped binary. Building the benches replaces the original with one that has their features of
    dependencies."""
    original = built("build", "--profile", "dist", "--bin", "tokenmint", *arguments)["tokenmint"]
    return pathlib.Path(shutil.copy2(original, original.with_name("tokenmint-as-it-ships")))


def static_service():
    """The static binary of the image."""
    return service("--target", f"{platform.machine()}-unknown-linux-musl")


def benches(*names):
    """The bench targets, built with the profile of the service."""
    return built("bench", "--profile", "dist", "--no-run", *(part for name in names for part in ("--bench", name)))


def counted_in_process():
    """`in_process` for callgrind: a release build, together with the binary that `make chaos-short` uses."""
    return built("build", "--release", "--bin", "tokenmint", "--bench", "in_process")["in_process"]
