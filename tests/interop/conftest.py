"""Fixtures: the tools that must be there, the running service, and an OAuth server that takes its assertions."""

import os
import pathlib
import signal
import threading

import pytest
from oauth_server import oauth_app
from required import require_tools
from service import TOOLS, Deployment, Service
from stores import LastingTransit
from werkzeug.serving import make_server


def pytest_configure():
    require_tools(TOOLS, "tests/interop/setup")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """A failing test shows what the service said last."""
    report = yield
    service = getattr(item, "funcargs", {}).get("service")
    if report.failed and service:
        report.sections.append(("tokenmint's log, its end", service.log_tail()))
    return report


@pytest.fixture(scope="session")
def oauth_server():
    """The base address of a server of Authlib's, for as long as the tests run. See oauth_server.py."""
    app = oauth_app()
    server = make_server("127.0.0.1", 0, app, threaded=True)
    app.config["BASE"] = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield app
    server.shutdown()
    thread.join()


@pytest.fixture(scope="session")
def deployment(tmp_path_factory, oauth_server):
    made = Deployment(tmp_path_factory.mktemp("deployment"), oauth_server.config["BASE"] + "/services/oauth2/token")
    oauth_server.config["JWKS_URL"] = f"{made.url}/keysets/crm/jwks.json"
    return made


@pytest.fixture(scope="session")
def run_service():
    """Starts a service for a deployment. All are stopped at the end, and must stop well."""
    running = []

    def start(deployment, probe="/readyz"):
        service = Service(str(pathlib.Path(os.environ["TOKENMINT_BIN"]).resolve()), deployment)
        running.append(service)
        return service.start(probe)

    yield start
    try:
        for service in running:
            if service.process.poll() is None:
                service.stop()
    finally:
        for service in running:
            service.kill()


@pytest.fixture(scope="session")
def service(run_service, deployment):
    return run_service(deployment)


@pytest.fixture(scope="module")
def stopping():
    """The services that were told to stop. Each must end well."""
    services = []
    yield services
    for service in services:
        assert service.process.wait(timeout=20) == 0, service.log_tail()


@pytest.fixture
def serve(run_service, stopping):
    """Starts the service of a workspace, and stops it after the test. `probe` is the path that must answer 200 first."""
    started = []

    def start(workspace, probe="/readyz"):
        started.append(run_service(workspace.deployment, probe))
        return started[-1]

    yield start
    for service in started:
        print(f"tokenmint's log, its end:\n{service.log_tail()}")
        if service.process.poll() is None:
            service.process.send_signal(signal.SIGTERM)
            stopping.append(service)


@pytest.fixture
def lasting_bao(tmp_path):
    """A store that the test may kill, and start again with its data."""
    (tmp_path / "bao").mkdir()
    store = LastingTransit(tmp_path / "bao")
    yield store
    store.stop()
