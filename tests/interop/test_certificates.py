"""The certificate beside each key (`x5c`): read by Java's keytool and Python's cryptography, the same everywhere."""

import base64
import datetime
import hashlib
import json
import re
import ssl
import subprocess
import time

import pytest
from cryptography import x509
from service import KIDS


@pytest.fixture(params=KIDS)
def jwk(service, request):
    (only,) = service.jwks(request.param)
    return only


@pytest.fixture
def der(jwk):
    # Standard base64, with padding and without line breaks; base64url would fail here.
    (leaf,) = jwk["x5c"]
    return base64.b64decode(leaf, validate=True)


def number(text):
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def published(service):
    """kid -> DER of its certificate."""
    return {jwk["kid"]: base64.b64decode(jwk["x5c"][0]) for jwk in service.jwks()}


def test_keytool_reads_it(der, tmp_path):
    pem = tmp_path / "leaf.pem"
    pem.write_text(ssl.DER_cert_to_PEM_cert(der))
    command = ["keytool", "-J-Duser.language=en", "-printcert", "-file", str(pem)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "2048-bit RSA key" in said.stdout
    assert re.search(r"Signature algorithm name: SHA(256|512)withRSA", said.stdout)
    assert re.search(r"Owner: .*CN=\S", said.stdout), "Salesforce Setup lists certificates by their subject"
    assert hashlib.sha256(der).digest().hex(":").upper() in said.stdout, "its SHA-256 fingerprint"


def test_it_certifies_the_key_that_the_jwk_describes(jwk, der):
    certified = x509.load_der_x509_certificate(der).public_key().public_numbers()
    assert (certified.n, certified.e) == (number(jwk["n"]), number(jwk["e"]))


def test_it_is_signed_with_that_key(der):
    certificate = x509.load_der_x509_certificate(der)
    certificate.verify_directly_issued_by(certificate)


def test_it_is_valid_now_and_for_more_than_ten_days(der):
    certificate = x509.load_der_x509_certificate(der)
    now = datetime.datetime.now(datetime.UTC)
    assert certificate.not_valid_before_utc <= now
    # Salesforce refuses a certificate with fewer days left.
    assert certificate.not_valid_after_utc > now + datetime.timedelta(days=10)


def test_x5t_s256_is_its_fingerprint(jwk, der):
    expected = base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()
    assert jwk["x5t#S256"] == expected


def test_it_is_the_same_to_the_byte_on_every_machine_and_after_a_restart(
    service, deployment, run_service, tmp_path_factory
):
    time.sleep(1)  # a certificate made from the time of the start would differ from here on
    second = run_service(deployment.again(tmp_path_factory.mktemp("second")))
    before = published(second)
    assert before == published(service), "two machines with the same keys"
    second.stop()
    time.sleep(1)
    second.start()
    assert published(second) == before, "the same machine, started again"


def test_keytool_reads_a_given_certificate_as_it_is_published(service, deployment, tmp_path):
    given = deployment.again(tmp_path / "given")
    key = given.folder / "keys" / "web" / f"{KIDS['web']}.key"
    crt = key.with_name(f"{KIDS['web']}.crt")
    request = ["openssl", "req", "-x509", "-sha256", "-days", "400", "-subj", "/CN=acme", "-key", key, "-out", crt]
    subprocess.run(request, check=True, capture_output=True)
    der = base64.b64decode(json.loads(service.run("jwk", KIDS["web"], "--config", str(given.config)))["x5c"][0])
    assert der == ssl.PEM_cert_to_DER_cert(crt.read_text())
    pem = tmp_path / "leaf.pem"
    pem.write_text(ssl.DER_cert_to_PEM_cert(der))
    command = ["keytool", "-J-Duser.language=en", "-printcert", "-file", str(pem)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert said.returncode == 0 and "Owner: CN=acme" in said.stdout, said.stdout + said.stderr
