"""`make guard`: counts the instructions of single operations under callgrind, and compares them with the bounds in
benches/instructions.toml.

Unlike a time, a count doesn't depend on the load of the machine, so CI can enforce it.
"""

import re
import subprocess
import sys
import tempfile
import tomllib

import build

BOUNDS = build.ROOT / "benches/instructions.toml"
OPERATIONS = 200


def callgrind(in_process, operation, folder):
    """The instructions of one operation, without those of aws-lc's signing."""
    out = f"{folder}/{operation}.out"
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
    command += ["--collect-atstart=no", "--toggle-collect=in_process::counted"]
    command += [str(in_process), "count", operation, str(OPERATIONS), f"{folder}/key.pem"]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{ran.stdout}{ran.stderr}")
    annotate = ["callgrind_annotate", "--inclusive=yes", "--threshold=100", "--show-percs=no", out]
    functions = subprocess.run(annotate, check=True, capture_output=True, text=True).stdout

    def inclusive(name):
        found = re.findall(rf"^\s*([\d,]+)\s+\S*:{name}(?: \[.*)?$", functions, re.MULTILINE)
        return max((int(count.replace(",", "")) for count in found), default=0)

    total, signing = inclusive("in_process::counted"), inclusive(r"aws_lc_\w+_EVP_PKEY_sign")
    # Under callgrind a signature takes so long that a signer thread makes it, whose instructions aren't counted.
    if total == 0 or (signing > 0 and operation != "mint"):
        sys.exit(f"{operation}: {total} instructions, {signing} of them in signing: the symbols have other names now")
    return round((total - signing) / OPERATIONS)


def main():
    in_process = build.counted_in_process()
    bounds = tomllib.loads(BOUNDS.read_text())
    over = False
    with tempfile.TemporaryDirectory() as folder:
        key = ["openssl", "genpkey", "-quiet", "-algorithm", "RSA", "-out", f"{folder}/key.pem"]
        subprocess.run([*key, "-pkeyopt", "rsa_keygen_bits:2048"], check=True)
        print(f"{'instructions':36} {'counted':>9} {'at most':>9}")
        for operation, bound in bounds.items():
            counted = callgrind(in_process, operation, folder)
            over |= counted > bound["most"]
            verdict = "TOO MANY" if counted > bound["most"] else ""
            print(f"{bound['what']:36} {counted:9,} {bound['most']:9,} {verdict}", flush=True)
    if over:
        sys.exit(f"find what costs more, or raise the bound in {BOUNDS.name} and say why in the commit")


main()
