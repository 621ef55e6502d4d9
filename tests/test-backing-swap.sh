#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Another process keeps replacing a backing file by a link to a file that is
# not allowed.  Each time the image is refused, or the allowed file is read.

source ./functions.sh nbd nbdcopy

"$PYTHON" - <<'END'
import os, subprocess, threading
import qedimg, qedtest
os.chdir(qedtest.TMP)
os.mkdir("imgs")
for path, content in ("imgs/inside", b"inside"), ("secret", b"PRIVATE"):
    with open(path, "wb") as f:
        f.write(content)
qedimg.Image(512, backing="base").save("imgs/x.qed")
os.symlink("inside", "imgs/base")
stop = threading.Event()

def swap():
    while not stop.is_set():
        for target in "../secret", "inside":
            os.symlink(target, "imgs/new")
            os.rename("imgs/new", "imgs/base")

swapper = threading.Thread(target=swap)
swapper.start()
try:
    for i in qedtest.some(range(60), 5):
        p = subprocess.run(["nbdkit", "-r", "-U", f"{qedtest.TMP}/sock{i}",
                            "qed", "imgs/x.qed", ("lock=true", "lock=false")[i % 2],
                            "--run", 'nbdcopy "$uri" -'], timeout=60,
                           stdin=subprocess.DEVNULL, capture_output=True)
        if p.returncode == 0:
            assert p.stdout.startswith(b"inside"), p
        else:
            assert b"imgs/x.qed: backing file: " in p.stderr, p
            assert not p.stdout, p
finally:
    stop.set()
    swapper.join()
END
