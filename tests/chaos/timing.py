"""Case 2: tests/timing, whose t-tests say whether a time tells what was worked on; with `FULL=1` over a million samples."""

import os
import re
import subprocess

from deployment import FULL, REPO, amount, expect


def timing():
    command = ["cargo", "test", "--locked", *(["--release"] if FULL else []), "--test", "timing", "--", "--nocapture"]
    command += ["--test-threads=1"]
    settings = {"TIMING_SAMPLES": os.environ.get("TIMING_SAMPLES", "1000000")} if FULL else {}
    ran = subprocess.run(command, cwd=REPO, capture_output=True, text=True, env=os.environ | settings)
    expect(ran.returncode == 0, (ran.stdout + ran.stderr)[-1500:])
    # Behind `test NAME ... ` on the same line.
    figures = re.findall(r"([a-zA-Z ]+: t = [\d.]+ over \d+ samples)", ran.stdout)
    left_out = re.findall(r"left out: .*", ran.stdout)
    expect(len(figures) + len(left_out) == 4, ran.stdout)
    bound = amount(10, 4.5)
    return "; ".join([*(figure.strip() for figure in figures), *left_out]) + f" (asserted: below {bound})", None
