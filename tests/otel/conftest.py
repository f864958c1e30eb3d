"""What must be there, and the service in a folder of its own, with a collector for its spans and a Salesforce behind it."""

import contextlib
import os
import pathlib
import sys

import pytest

# What starts tokenmint and says where the tools are: used here as it is there.
sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "interop"))

from required import require_tools  # noqa: E402
from service import TOOLS, Deployment, Service  # noqa: E402

INSTALLED = TOOLS / "otel"
sys.path.append(str(INSTALLED / "python"))

from fakes import Collector, Salesforce  # noqa: E402


def pytest_configure():
    require_tools(INSTALLED, "tests/otel/setup", "a tokenmint built with --features otel")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """A failing test shows what the service said last."""
    report = yield
    for service in getattr(item, "services", []) if report.failed else []:
        report.sections.append(("tokenmint's log, its end", service.log_tail()))
    return report


@pytest.fixture
def collector():
    with Collector() as collector:
        yield collector


@pytest.fixture
def salesforce():
    with Salesforce() as salesforce:
        yield salesforce


@pytest.fixture
def serve(tmp_path, monkeypatch, salesforce, request):
    """Starts a service with these variables of OpenTelemetry, and none of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    deployment = Deployment(tmp_path / "deployment", f"{salesforce.url}/services/oauth2/token")
    request.node.services = []

    def start(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        service = Service(str(pathlib.Path(os.environ["TOKENMINT_BIN"]).resolve()), deployment)
        request.node.services.append(service)
        return service.start()

    with contextlib.ExitStack() as stack:
        stack.callback(lambda: [service.kill() for service in request.node.services])
        yield start
