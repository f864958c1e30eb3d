"""The metadata project is one to Salesforce's own library, which `sf project deploy start` is made of."""

import pathlib

import pytest
from verifiers import script

sf = script("node", "source-deploy-retrieve.cjs")
UPLOADED = [
    "PublicKeyCertificate:WebAppKey1",
    "PublicKeyCertificate:WebAppKey512",
    "PublicKeyCertificateSet:web",
    "PublicKeyCertificateSet:web512",
]
ENDPOINTS = ["PublicKeyCertificateSet:web", "PublicKeyCertificateSet:web512"]


@pytest.fixture(scope="module")
def configured(deployment, tmp_path_factory):
    again = deployment.again(tmp_path_factory.mktemp("metadata") / "deployment")
    public = '[server.public]\nlisten = "127.0.0.1:0"\nurl = "https://tokens.acme.example"\n'
    again.config.write_text(again.config.read_text() + public)
    return str(again.config)


@pytest.mark.parametrize("flags, components", [([], ENDPOINTS), (["--upload"], UPLOADED)], ids=["endpoint", "uploaded"])
def test_salesforces_library_finds_every_component_and_no_fragment(service, configured, tmp_path, flags, components):
    project, out = tmp_path / "project", tmp_path / "mdapi"
    command = ["salesforce-metadata", "--config", configured, *flags]
    service.run(*command, "--out", str(project))
    found = sf(str(project), str(out))
    assert found == {"source": components, "manifest": components}
    # What would go to the org, and come back from it, is what the configuration has.
    names = [path.relative_to(out).as_posix() for path in pathlib.Path(out).rglob("*") if path.is_file()]
    sent = [f"{kind}/{name}.{kind}" for kind, _, name in (component.partition(":") for component in components)]
    assert sorted(names) == sorted([*sent, "package.xml"])
    assert service.run(*command, "--diff", str(out))
