"""Fixtures: what must be there, where deploy/ is, and the tools that are run on it."""

import os
import pathlib
import sys

import pytest

# What starts tokenmint and says where the tools are: used here as it is there.
sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "interop"))

from required import require_tools  # noqa: E402
from service import TOOLS  # noqa: E402

INSTALLED = TOOLS / "deploy"
sys.path.append(str(INSTALLED / "python"))


def pytest_configure():
    require_tools(INSTALLED, "tests/deploy/setup")
    if os.geteuid() != 0:
        raise pytest.UsageError("these tests need root, for mounts and namespaces: a pod is played with its own")


@pytest.fixture(scope="session")
def installed():
    return INSTALLED


@pytest.fixture(scope="session")
def binary():
    return pathlib.Path(os.environ["TOKENMINT_BIN"]).resolve()
