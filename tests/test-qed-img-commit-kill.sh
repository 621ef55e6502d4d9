#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# After a kill at any moment of a commit the disk has its old content, and the
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

def make(path, seed, size, cs, backing):
    img = qedimg.Image(size, cs, backing=backing, seed=seed)
    for c in range(size // cs):
        if c % 3 == len(seed) % 3:
            img.data(c)
        elif c % 7 == 3:
            img.zero(c)
    img.save(path)

MiB = 1 << 20
make("base.copy", "base", 20 * MiB, 65536, None)
make("x.copy", "overlay", 40 * MiB, 4096, "base.qed")

def read():
    below = qedimg.Model("base.qed")
    x = qedimg.Model("x.qed", below)
    b = x.read(0, x.size)
    x.close()
    below.close()
    return b

def start():
    shutil.copy("base.copy", "base.qed")
    shutil.copy("x.copy", "x.qed")

start()
want = read()
begin = time.monotonic()
out, _ = qedtest.qed_img("commit", "x.qed")
seconds = time.monotonic() - begin
assert read() == want

command = [*shlex.split(os.environ["QED_IMG"]), "commit", "-q", "x.qed"]
killed = 0
for i in qedtest.some(range(10), 2):
    start()
    p = subprocess.Popen(command)
    time.sleep(random.random() * seconds)
    p.kill()
    killed += p.wait() == -signal.SIGKILL
    assert read() == want, i
    qedtest.qed_img("commit", "x.qed")
    assert read() == want, i
    qedimg.References("x.qed").check_clean()
    qedimg.References("base.qed").check_clean(leaks=True)
print(killed, "were killed")
END
