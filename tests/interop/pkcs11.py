"""Tokens that seal private keys and sign: a real SoftHSM, a TPM by swtpm and tpm2-pkcs11, and a module that hangs and fails when it is told to.

The commands and the configuration are read from docs/operate/pkcs11.md, so that the page and the tests can't differ.
"""

import atexit
import os
import pathlib
import re
import subprocess

from issuers import wait_until
from service import HERE, KIDS, REPO
from stores import block_of_the_page, replaced, shell, two_ports

PAGE = REPO / "docs" / "operate" / "pkcs11.md"
MODULE = "/usr/lib/softhsm/libsofthsm2.so"
TOKEN, PIN, SEAL_KEY = "tokenmint", "1234", "sealing"
SETUP = block_of_the_page("console", "softhsm2-util", PAGE)
# PKCS#11's codes of errors.
DEVICE_REMOVED, GENERAL_ERROR, SESSION_HANDLE_INVALID = 0x32, 0x5, 0xB3


class SoftHsm:
    """A token in a folder, with the page's setup. `settings` are the environment variables that its users need."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "tokens").mkdir(parents=True)
        config = folder / "softhsm2.conf"
        config.write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n")
        self.settings = {"SOFTHSM2_CONF": str(config)}
        self.run(SETUP)

    def run(self, commands):
        ran = shell(commands, self.folder, **self.settings)
        assert ran.returncode == 0, f"{commands}\n{ran.stdout}{ran.stderr}"
        return ran.stdout

    def tool(self, arguments, pin=PIN, token=TOKEN):
        """Runs pkcs11-tool with a login."""
        return self.run(f"pkcs11-tool --module {MODULE} --token-label {token} --login --pin {pin} {arguments}")

    def initialize(self, label):
        return self.run(f"softhsm2-util --init-token --free --label {label} --pin {PIN} --so-pin 5678")

    def make_aes_key(self, label):
        self.tool(f"--keygen --key-type AES:32 --label {label} --private --sensitive")

    def make_rsa_key(self, label, bits=2048):
        self.tool(f"--keypairgen --key-type rsa:{bits} --label {label}")


class Tpm:
    """A simulated TPM, and a token of tpm2-pkcs11 with the page's key that seals."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("state", "store"):
            (folder / name).mkdir(parents=True)
        self.port = two_ports()
        (self.module,) = map(str, pathlib.Path("/usr/lib").glob("*/libtpm2_pkcs11.so.1"))
        tcti = f"swtpm:host=127.0.0.1,port={self.port}"
        quiet = {"TPM2_PKCS11_LOG_LEVEL": "0", "TSS2_LOG": "all+NONE"}
        self.settings = quiet | {"TPM2TOOLS_TCTI": tcti, "TPM2_PKCS11_TCTI": tcti, "TPM2_PKCS11_STORE": str(folder / "store")}
        self.start()
        tool = f"pkcs11-tool --module {self.module}"
        self.run(f"{tool} --slot-index 0 --init-token --label {TOKEN} --so-pin 5678")
        self.run(f"{tool} --token-label {TOKEN} --init-pin --so-pin 5678 --pin {PIN}")
        page = block_of_the_page("console", "rsa:2048", PAGE)
        self.run(re.sub(r"--module \S+", f"--module {self.module}", page))
        self.run("tpm2_flushcontext -t")  # pkcs11-tool may have left one.

    def run(self, commands):
        ran = shell(commands, self.folder, **self.settings)
        assert ran.returncode == 0, f"{commands}\n{ran.stdout}{ran.stderr}"
        return ran.stdout

    def start(self):
        address = "type=tcp,port={},bindaddr=127.0.0.1"
        command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.folder / 'state'}", "--flags", "not-need-init,startup-clear"]
        command += ["--server", address.format(self.port), "--ctrl", address.format(self.port + 1)]
        with (self.folder / "swtpm.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        atexit.register(self.process.kill)
        is_there = lambda: shell("tpm2_getcap properties-fixed", self.folder, **self.settings).returncode == 0  # noqa: E731
        wait_until(is_there, "the TPM answers")

    def stop(self):
        """Shuts it down first: otherwise it counts a wrong PIN."""
        self.run("tpm2_shutdown")
        self.process.terminate()
        self.process.wait(timeout=10)

    def objects(self):
        """The objects in the TPM's memory, of which there can be three."""
        return self.run("tpm2_getcap handles-transient").split()


class Faults:
    """A module of ours that passes all calls on to SoftHSM, counts logins, and hangs or fails when told to."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.module = folder / "faults.so"
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(self.module), str(HERE / "pkcs11_faults.c")], check=True)
        self.settings = {"FAULTS": str(folder), "FAULTS_MODULE": MODULE}

    def hang(self):
        """From then on, no call that signs or decrypts returns."""
        (self.folder / "hang").touch()

    def go_on(self):
        (self.folder / "hang").unlink(missing_ok=True)

    def fail_once(self, code):
        """The next call that signs or decrypts returns this error."""
        new = self.folder / "new"
        new.write_text(str(code))
        new.rename(self.folder / "fail")

    def has_failed(self):
        return not (self.folder / "fail").exists()

    def logins(self):
        path = self.folder / "logins"
        return len(path.read_text()) if path.exists() else 0


class HsmWorkspace:
    """A deployment whose keyset `web` is sealed or signed by a token, as its user at a shell sees it."""

    def __init__(self, deployment, words="sealed_by"):
        self.deployment, self.folder = deployment, deployment.folder
        self.keys = self.folder / "keys" / "web"
        self.sealed_key = self.keys / f"{KIDS['web']}.key.sealed"
        section, _ = re.fullmatch(r"(.*)(\[keysets\.web\]\n.*)", block_of_the_page("toml", "sealed_by", PAGE), re.DOTALL).groups()
        keyset = re.search(r"\[keysets\.web\]\n.*", block_of_the_page("toml", words, PAGE), re.DOTALL)[0]
        before = '[keysets.web]\ndirectory = "keys/web"\n'
        text = deployment.config.read_text()
        assert text.count(before) == 1
        section = replaced(section, pin_file="hsm-pin")
        deployment.config.write_text(text.replace(before, keyset) + "\n" + section)
        self.give_pin(f"{PIN}\n")
        (self.folder / "bin").mkdir()
        (self.folder / "bin" / "tokenmint").symlink_to(pathlib.Path(os.environ["TOKENMINT_BIN"]).resolve())

    def give_pin(self, pin):
        new = self.folder / "hsm-pin.new"
        new.touch(mode=0o600)
        new.write_text(pin)
        new.rename(self.folder / "hsm-pin")

    def configure(self, **values):
        config = self.deployment.config
        config.write_text(replaced(config.read_text(), **values))

    def run(self, commands):
        return shell(commands, self.folder, PATH=f"{self.folder / 'bin'}:{os.environ['PATH']}")
