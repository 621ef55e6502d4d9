#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The name of an image leads through a symbolic link that another process keeps
# pointing at another directory.  Files of that directory never become backing
# files of the image.

source ./functions.sh nbd nbdcopy

"$PYTHON" - <<'END'
import os, subprocess, threading
import qedimg, qedtest
os.chdir(qedtest.TMP)
os.mkdir("own")
os.mkdir("other")
with open("other/secret", "wb") as f:
    f.write(b"PRIVATE")
qedimg.Image(512, backing=qedtest.TMP + "/other/secret").save("own/x.qed")
os.symlink("own", "link")
stop = threading.Event()

def swap():
    while not stop.is_set():
        for target in "other", "own":
            os.symlink(target, "new")
            os.rename("new", "link")

def read(i):
    return subprocess.run(["nbdkit", "-r", "-U", f"{qedtest.TMP}/sock{i}",
                           "qed", "link/x.qed", "--run", 'nbdcopy "$uri" -'],
                          timeout=60, stdin=subprocess.DEVNULL,
                          capture_output=True)

p = read("")
assert p.returncode != 0 and b"backing-dir=" in p.stderr, p
swapper = threading.Thread(target=swap)
swapper.start()
try:
    for i in qedtest.some(range(100), 5):
        p = read(i)
        assert p.returncode != 0 and not p.stdout, p
finally:
    stop.set()
    swapper.join()
END
