"""Fixtures: a tokenmint with the bundle of one page load, and every example running beside it."""

import os
import pathlib
import sys

import pytest

# What starts tokenmint and says where the tools are: used here as it is there.
sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "interop"))

from apps import COMMANDS, INSTALLED, STAND_IN_KEY, App, Deployment, StandIn  # noqa: E402
from required import require_tools  # noqa: E402
from service import Service  # noqa: E402


def pytest_configure():
    require_tools(INSTALLED, "tests/examples/setup")


@pytest.fixture(scope="session")
def service(tmp_path_factory):
    deployment = Deployment(tmp_path_factory.mktemp("deployment"))
    os.environ["RUST_LOG"] = "debug"  # refusals are in its log
    running = Service(str(pathlib.Path(os.environ["TOKENMINT_BIN"]).resolve()), deployment)
    yield running.start()
    running.kill()


@pytest.fixture(scope="session")
def stand_in():
    return StandIn()


@pytest.fixture(scope="session")
def started(tmp_path_factory, service, stand_in):
    """All examples, each twice: for tokenmint, and for what stands in for it. Started side by side."""
    apps = {}
    try:
        for name in COMMANDS:
            for url, key in [(service.url, service.deployment.api_key), (stand_in.url, STAND_IN_KEY)]:
                apps[name, url] = App(name, tmp_path_factory.mktemp(name), url, key)
        for app in apps.values():
            app.wait()
        yield apps
    finally:
        for app in apps.values():
            app.kill()


@pytest.fixture(params=list(COMMANDS))
def app(request, started, service):
    """An example before the real tokenmint."""
    return started[request.param, service.url]


@pytest.fixture(params=list(COMMANDS))
def app_on_a_bad_day(request, started, stand_in):
    """An example before the stand-in."""
    stand_in.heard.clear()
    return started[request.param, stand_in.url]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """A failing test shows what the programs said last."""
    report = yield
    for name in ("app", "app_on_a_bad_day", "service"):
        program = getattr(item, "funcargs", {}).get(name)
        if report.failed and program:
            log = program.log.read_text(errors="replace").splitlines()[-20:]
            report.sections.append((f"the log of {name}, its end", "\n".join(log)))
    return report
