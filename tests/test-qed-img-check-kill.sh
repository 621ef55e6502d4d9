#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# After a kill at any moment of a repair the disk has its old content, and the
# next repair completes.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import os, shlex, shutil, signal, subprocess, time
import qedcheck, qedimg, qedtest

start, path = (qedtest.TMP + "/" + name for name in ("start.qed", "r.qed"))
img = qedimg.Image(256 << 20, 65536, 1)
n = img.n
for c in range(200):
    if c % 3 == 0:
        img.alloc(c % 4)
    img.data(c)
for c in range(200, 260):
    img.entry(c, img.entries[img.table(0) * 65536 + 8 * (c - 200)])
img.data(n + 5)
img.save(start)

def command():
    return [*shlex.split(os.environ["QED_IMG"]), "check", "-q", "-r", "all",
            path]

before = qedcheck.content(start)
assert qedcheck.expect(start).status() == 2

# How long does it take?
shutil.copy(start, path)
t = time.monotonic()
subprocess.run(command(), check=True)
t = time.monotonic() - t
assert qedcheck.content(path) == before
qedcheck.expect_clean(path)

killed = 0
for k in qedtest.some(range(12)):
    shutil.copy(start, path)
    p = subprocess.Popen(command())
    time.sleep(t * k / 12)
    # Kill a second repair of what the first one has left.
    for again in range(2):
        p.kill()
        killed += p.wait() == -signal.SIGKILL
        assert qedcheck.content(path) == before, k
        if again == 0:
            p = subprocess.Popen(command())
            time.sleep(t / 3)
    qedcheck.check(path, "-r", "all")
    assert qedcheck.content(path) == before, k
    qedcheck.expect_clean(path)
print("killed", killed)
assert killed > 0
END
