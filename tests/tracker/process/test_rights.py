"""One's own processes can be watched without any privilege."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.kernel("uffd_wp_async", "ptrace")

_OWN = """
import re, socket, subprocess, sys
import writewatch as ww
assert re.search(r"^CapEff:\\s*0+$", open("/proc/self/status").read(), re.M), "there are capabilities"
code = '''
import sys
x = bytearray(8 << 20)
print("ready", flush=True)
for line in sys.stdin:
    x[0:len(x):4096] = x[0:len(x):4096]
    print("done", flush=True)
'''
child = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True)
child.stdout.readline()
with ww.attach(child.pid, backend="uffd-wp") as tracker:
    tracker.collect()
    child.stdin.write("go\\n")
    child.stdin.flush()
    child.stdout.readline()
    assert tracker.collect().n_pages >= (8 << 20) // ww.capabilities().page_size
child.communicate()
ours, theirs = socket.socketpair()
with ours, ww.launch([sys.executable, "-c", "x = bytearray(8 << 20); input()"], stdin=theirs.fileno()) as tracker:
    tracker.collect()
    ours.sendall(b"\\n")
    while not tracker.wait(1):
        pass
    assert tracker.exit_status == 0
"""


def test_a_process_without_capabilities_watches_its_own_child() -> None:
    command = [sys.executable, "-c", _OWN]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("as root, capabilities are dropped with setpriv(1), which is not here")
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
