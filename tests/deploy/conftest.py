"""Fixtures: what must be there, where deploy/ is, and the tools that are run on it."""

import os
import pathlib
import sys

import pytest

# What starts tokenmint and says where the tools are: used here as it is there.
sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "interop"))

from service import TOOLS  # noqa: E402

INSTALLED = TOOLS / "deploy"
sys.path.append(str(INSTALLED / "python"))


def pytest_configure():
    """Stops at once when something is missing: a suite that skips for want of its subject proves nothing."""
    binary = os.environ.get("TOKENMINT_BIN")
    if not binary:
        raise pytest.UsageError("TOKENMINT_BIN is not set: give it the path of the tokenmint binary to test")
    if not os.access(binary, os.X_OK):
        raise pytest.UsageError(f"TOKENMINT_BIN={binary}: no such program. Has `cargo build` been run?")
    if not (INSTALLED / "stamp").exists():
        raise pytest.UsageError(f"no tools in {INSTALLED}: run tests/deploy/setup first")
    if os.geteuid() != 0:
        raise pytest.UsageError("these tests need root, for mounts and namespaces: a pod is played with its own")


@pytest.fixture(scope="session")
def installed():
    return INSTALLED


@pytest.fixture(scope="session")
def binary():
    return pathlib.Path(os.environ["TOKENMINT_BIN"]).resolve()
