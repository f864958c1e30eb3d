"""Checks before a suite starts that what it needs is there. A suite that skips without its subject proves nothing."""

import os

import pytest


def require_tools(folder, setup, binary_kind="the path of the tokenmint binary to test"):
    """Stops the suite if there is no binary at TOKENMINT_BIN, or if the script `setup` hasn't filled `folder`."""
    binary = os.environ.get("TOKENMINT_BIN")
    if not binary:
        raise pytest.UsageError(f"TOKENMINT_BIN is not set: give it {binary_kind}")
    if not os.access(binary, os.X_OK):
        raise pytest.UsageError(f"TOKENMINT_BIN={binary}: no such program. Has `cargo build` been run?")
    if not (folder / "stamp").exists():
        raise pytest.UsageError(f"no tools in {folder}: run {setup} first")
