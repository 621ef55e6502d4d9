#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A backing file that is no file or device is refused at once.  The message
# names the image and the backing file.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import os, socket, stat
import qedimg, qedtest
os.chdir(qedtest.TMP)
t = qedtest.TMP

os.mkdir("dir")
os.mkfifo("fifo")
s = socket.socket(socket.AF_UNIX)
s.bind("socket")
os.symlink("nowhere", "dangling")
os.symlink("circle", "circle")
open("file", "w").close()
cases = [("missing", "No such file.*backing=NAME"),
         ("", "backing_filename_size 0"),
         ("dir", "directory"), ("dir/", "directory"), (".", "directory"),
         ("..", "directory"), ("/", "directory"),
         ("fifo", "FIFO"), ("socket", "socket"),
         ("/dev/null", "character device"),
         ("/dev/zero", "character device"), ("/dev/tty", "character device"),
         ("dangling", "No such file"), ("circle", "symbolic links"),
         ("file/x", "Not a directory"), ("dir/missing", "No such file"),
         ("m" * 256, "File name too long"),
         ("/proc/self/fd", "directory")]
try:
    os.mknod("char", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    cases.append(("char", "character device"))
except PermissionError:
    pass
for name, what in qedtest.some(cases):
    if name == "/dev/tty" and not os.path.exists(name):
        continue
    qedimg.Image(1 << 20, backing=name).save("x.qed")
    path = name if name.startswith("/") else f"{t}/{name}"
    log = qedtest.refused(f"{t}/x.qed: .*{what}", "qed", "x.qed")
    if name:
        assert f"{t}/x.qed: backing file: {path}: " in log, log
    # The same for a lower layer, and for a name from the user.
    qedimg.Image(1 << 20, backing="x.qed").save("y.qed")
    qedtest.refused(f"{t}/x.qed: .*{what}", "qed", "y.qed")
    if name:
        qedimg.Image(1 << 20).save("z.qed")
        qedtest.refused(f"{t}/z.qed: backing file: {path}.*{what.split('.')[0]}",
                        "qed", "z.qed", "backing=" + name)
END
