"""AWS KMS by the emulator ministack: keys that it seals, keys with which it signs, and credentials from where AWS gives them.

ministack doesn't verify signatures of requests, and its ciphertexts have no authentication. `tests/service/aws_kms.rs` has a strict fake for both.
Here an independent implementation reads the requests, and botocore opens what tokenmint has sealed.
"""

import base64
import fnmatch
import json
import os
import re
import subprocess

import botocore.session
import pytest
from issuers import Process
from ports import free_port
from service import ISSUER, ISSUER_512, KIDS, REPO, TOOLS, environment
from verifiers import pyjwt

PAGE = (REPO / "docs" / "operate" / "aws-kms.md").read_text()
REGION = "eu-central-1"
SUB = "user-4711"
SECRET = "the-secret-access-key-of-the-tests"
# The encryption context of the key of the keyset `web`.
CONTEXT = f"tokenmint/web/{KIDS['web']}"
SEALED = f"keys/web/{KIDS['web']}.key.sealed"


class Ministack(Process):
    def __init__(self, folder):
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        super().__init__(
            [str(TOOLS / "venv" / "bin" / "ministack")],
            folder,
            BIND_HOST="127.0.0.1",
            GATEWAY_PORT=str(self.port),
            # Otherwise it listens on all addresses for these.
            IOT_MTLS_ENABLED="0",
            SFTP_ENABLED="0",
            LOG_LEVEL="WARNING",
            TMPDIR=str(folder),
        )
        self.wait_for(f"{self.address}/_ministack/health")
        self.kms = botocore.session.get_session().create_client(
            "kms", REGION, endpoint_url=self.address, aws_access_key_id="AKIDEXAMPLE", aws_secret_access_key=SECRET
        )

    def make_key(self, **settings):
        return self.kms.create_key(**settings)["KeyMetadata"]["Arn"]


@pytest.fixture(scope="module")
def kms(tmp_path_factory):
    started = Ministack(tmp_path_factory.mktemp("ministack"))
    yield started
    started.stop()


@pytest.fixture(scope="module")
def seal_key(kms):
    return kms.make_key(Description="seals tokenmint's keys")


@pytest.fixture
def user(monkeypatch):
    """Credentials in the environment. Without them, tokenmint would look elsewhere."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


def store_section(kms):
    return f'[stores.kms]\nkind = "aws-kms"\nregion = "{REGION}"\nendpoint = "{kms.address}"\n'


@pytest.fixture
def made(deployment, tmp_path, kms, seal_key):
    """A deployment whose keyset `web` KMS seals, with the key still in the clear."""
    made = deployment.again(tmp_path / "deployment")
    text = made.config.read_text()
    before = '[keysets.web]\ndirectory = "keys/web"\n'
    assert text.count(before) == 1
    seal = f'{before}sealed_by = "kms"\nseal_key = "{seal_key}"\n'
    made.config.write_text(text.replace(before, seal) + "\n" + store_section(kms))
    return made


def tokenmint(deployment, *arguments):
    command = [os.environ["TOKENMINT_BIN"], *arguments, "--config", str(deployment.config)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60)


def succeeded(ran):
    assert ran.returncode == 0, f"{ran.args}\n{ran.stdout}{ran.stderr}"
    return ran.stdout


def seal(deployment):
    return succeeded(tokenmint(deployment, "keys", "seal", KIDS["web"], "--keyset", "web"))


def assert_mints(service):
    token = service.mint("/identity-token", sub=SUB, profile="identity.web")["token"]
    jwks_url = f"{service.url}/keysets/web/jwks.json"
    assert pyjwt(jwks_url, token, "RS256", ISSUER, SUB)["sub"] == SUB


def test_a_sealed_key_signs(made, kms, seal_key, user, run_service):
    seal(made)
    sealed = json.loads((made.folder / SEALED).read_text())
    assert (sealed["store"], sealed["seal_key"]) == ("aws-kms", seal_key)
    # Another client opens the data key with the documented context, and with no other.
    blob = base64.b64decode(sealed["data_key"])
    opened = kms.kms.decrypt(CiphertextBlob=blob, KeyId=seal_key, EncryptionContext={"tokenmint": CONTEXT})
    assert len(opened["Plaintext"]) == 32
    for context in [{}, {"tokenmint": CONTEXT + "x"}]:
        with pytest.raises(kms.kms.exceptions.InvalidCiphertextException):
            kms.kms.decrypt(CiphertextBlob=blob, KeyId=seal_key, EncryptionContext=context)
    assert_mints(run_service(made))


def test_a_moved_file_does_not_open(made, user):
    seal(made)
    sealed = json.loads((made.folder / SEALED).read_text())
    (made.folder / SEALED).unlink()
    (made.folder / "keys/web/Other.key.sealed").write_text(json.dumps(sealed | {"kid": "Other"}))
    checked = tokenmint(made, "check")
    assert checked.returncode == 64
    assert "EncryptionContext does not match (InvalidCiphertextException)" in checked.stderr


@pytest.mark.parametrize("change", ["disable", "delete"])
def test_a_key_that_is_disabled_or_deleted_says_so(made, kms, user, change):
    key = kms.make_key()
    made.config.write_text(re.sub(r'seal_key = ".*"', f'seal_key = "{key}"', made.config.read_text()))
    seal(made)
    if change == "disable":
        kms.kms.disable_key(KeyId=key)
    else:
        kms.kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
    checked = tokenmint(made, "check")
    assert "is disabled. (DisabledException)" in checked.stderr or "is pending deletion. (KMSInvalidStateException)" in checked.stderr


def test_roles_give_credentials(made, kms, user, monkeypatch):
    seal(made)
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]:
        monkeypatch.delenv(name)
    (made.folder / "jwt").touch(mode=0o600)
    (made.folder / "jwt").write_text("eyJ.the.jwt")
    sources = [
        {
            "AWS_ROLE_ARN": "arn:aws:iam::000000000000:role/tokenmint",
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(made.folder / "jwt"),
            "AWS_ENDPOINT_URL_STS": kms.address,
        },
        {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{kms.address}/v2/credentials/task"},
        {"AWS_EC2_METADATA_SERVICE_ENDPOINT": kms.address},
    ]
    for source in sources:
        with monkeypatch.context() as patched:
            for name, value in source.items():
                patched.setenv(name, value)
            checked = tokenmint(made, "check")
        assert checked.returncode == 0 and "store `kms`" not in checked.stderr, (source, checked.stderr)


def test_the_policy_of_the_page_allows_the_context_of_the_keyset():
    policies = [json.loads(text) for text in re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)]
    statements = [statement for policy in policies for statement in policy["Statement"]]
    assert [statement["Action"] for statement in statements] == ["kms:Decrypt", "kms:GetPublicKey", "kms:Sign"]
    condition = statements[0]["Condition"]["StringLike"]["kms:EncryptionContext:tokenmint"]
    assert fnmatch.fnmatchcase(CONTEXT, condition)


@pytest.mark.parametrize(("keyset", "algorithm", "issuer"), [("web", "RS256", ISSUER), ("web512", "RS512", ISSUER_512)])
def test_kms_signs(deployment, tmp_path, kms, user, run_service, keyset, algorithm, issuer):
    made = deployment.again(tmp_path / "deployment")
    (made.folder / "keys" / keyset / f"{KIDS[keyset]}.key").unlink()
    text = made.config.read_text()
    before = f'[keysets.{keyset}]\ndirectory = "keys/{keyset}"\n'
    assert text.count(before) == 1
    made.config.write_text(text.replace(before, f'{before}signed_by = "kms"\n') + "\n" + store_section(kms))
    kid = f"new.{keyset}"
    succeeded(tokenmint(made, "keys", "new", kid, "--keyset", keyset, "--remote"))
    assert not list((made.folder / "keys" / keyset).glob("*.key*"))
    # The alias is for people, and keyset.toml names the key itself.
    key = kms.kms.describe_key(KeyId=f"alias/new-{keyset}")["KeyMetadata"]
    assert (key["KeySpec"], key["KeyUsage"], key["Description"]) == ("RSA_2048", "SIGN_VERIFY", f"tokenmint: signs as {kid}")
    assert f'remote = "{key["Arn"]}"' in (made.folder / "keys" / keyset / "keyset.toml").read_text()
    succeeded(tokenmint(made, "check"))
    service = run_service(made)
    token = service.mint("/identity-token", sub=SUB, profile=f"identity.{keyset}")["token"]
    assert pyjwt(f"{service.url}/keysets/{keyset}/jwks.json", token, algorithm, issuer, SUB)["sub"] == SUB
    kms.kms.disable_key(KeyId=key["Arn"])
    answer = service.post("/identity-token", {"sub": SUB, "profile": f"identity.{keyset}"})
    assert answer.status_code == 503 and answer.headers["Retry-After"], answer.text
