#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# After a kill at any moment of commit -b the disk has its old content, and the
# next commit completes.

source ./functions.sh nbd qemu

cd $d
"$PYTHON" - <<'END'
import os
import random
import shlex
import shutil
import signal
import subprocess
import time
import qedimg, qedtest

MiB = 1 << 20
def make(path, seed, size, cs, backing):
    img = qedimg.Image(size, cs, backing=backing, seed=seed)
    for c in range(size // cs):
        if c % 4 == len(seed) % 4:
            img.data(c)
        elif c % 7 == len(seed) % 7:
            img.zero(c)
    img.save(path)

make("base.copy", "base", 20 * MiB, 65536, None)
make("m.qed", "middle", 30 * MiB, 4096, "base.qed")
make("x.qed", "overlay", 40 * MiB, 4096, "m.qed")

def read():
    below = qedimg.Model("base.qed")
    m = qedimg.Model("m.qed", below)
    x = qedimg.Model("x.qed", m)
    b = x.read(0, x.size)
    for i in x, m, below:
        i.close()
    return b

def read_base():
    base = qedimg.Model("base.qed")
    b = base.read(0, base.size)
    base.close()
    return b

shutil.copy("base.copy", "base.qed")
want = read()
above = [open(f, "rb").read() for f in ("m.qed", "x.qed")]
begin = time.monotonic()
qedtest.qed_img("commit", "-b", "base.qed", "x.qed")
seconds = time.monotonic() - begin
assert read() == want
assert read_base() == want

command = [*shlex.split(os.environ["QED_IMG"]), "commit", "-q", "-b",
           "base.qed", "x.qed"]
killed = 0
for i in qedtest.some(range(8), 2):
    shutil.copy("base.copy", "base.qed")
    p = subprocess.Popen(command)
    time.sleep(random.random() * seconds)
    p.kill()
    killed += p.wait() == -signal.SIGKILL
    assert read() == want, i
    qedtest.qed_img("commit", "-b", "base.qed", "x.qed")
    assert read() == want, i
    assert read_base() == want, i
    assert [open(f, "rb").read() for f in ("m.qed", "x.qed")] == above
    qedimg.References("base.qed").check_clean(leaks=True)
print(killed, "were killed")
END
