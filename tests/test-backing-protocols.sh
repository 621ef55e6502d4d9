#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Names in a header that QEMU would take for more than a file are never
# followed.  (Files with such names: test-backing-names.sh.)

source ./functions.sh nbd

start_nbdkit -n other memory 1M
export other=$sock
"$PYTHON" - <<'END'
import os, re, socket
import qedimg, qedtest
os.chdir(qedtest.TMP)
t = qedtest.TMP
other = os.environ["other"]
open("base.raw", "w").close()

# No program may connect to this socket.
s = socket.socket()
s.bind(("127.0.0.1", 0))
s.listen()
s.setblocking(False)
port = s.getsockname()[1]

names = [
    "json:{\"driver\":\"nbd\",\"host\":\"127.0.0.1\",\"port\":\"%d\"}" % port,
    "json:{\"file.filename\":\"base.raw\"}",
    f"nbd:127.0.0.1:{port}", f"nbd:unix:{other}", f"nbd:unix:{other}:exportname=x",
    f"ssh://127.0.0.1:{port}/etc/passwd", f"http://127.0.0.1:{port}/",
    f"https://127.0.0.1:{port}/x.qed", f"ftp://127.0.0.1:{port}/",
    f"iscsi://127.0.0.1:{port}/x/0", f"gluster://127.0.0.1:{port}/v/x",
    f"nfs://127.0.0.1:{port}/x", "rbd:pool/image", "sheepdog:x",
    f"nbd+ssh://127.0.0.1:{port}/", f"nbd+vsock://1:{port}/", "nbd:/x",
    "fat:.", "fat:rw:" + t, "vvfat:.", "file:base.raw", "file:/etc/passwd",
    "file:///etc/passwd", "host_device:/dev/sda", "host_cdrom:/dev/sr0",
    "raw:base.raw", "qcow2:base.raw", "blkdebug::base.raw",
    "blkverify:base.raw:base.raw", "null-co://", "null-aio://",
    "nvme://0000:01:00.0/1", "fd:0", "exec:id", "x:y",
]
for name in qedtest.some(names):
    for uri in "false", "true":
        qedimg.Image(1 << 20, backing=name).save("x.qed")
        qedtest.refused(f"{t}/x.qed: backing file: {re.escape(name)}: .*never "
                        "followed from an image's header: .*backing=NAME",
                        "qed", "x.qed", "backing-uri=" + uri, "backing-dir=/")

for value in "", "maybe", "2":
    qedtest.refused("error: ", "qed", "x.qed", "backing-uri=" + value)

# NBD URIs: only with the parameter.
uris = [f"nbd://127.0.0.1:{port}", f"NBD://127.0.0.1:{port}/",
        f"nbds://127.0.0.1:{port}/x", f"nbd+unix:///?socket={other}",
        f"nbds+unix:///x?socket={other}", f"Nbd+Unix:///?socket={other}"]
for name in qedtest.some(uris, 3):
    for layer in "x.qed", "y.qed":
        qedimg.Image(1 << 20, backing=name).save("x.qed")
        qedimg.Image(1 << 20, backing="x.qed").save("y.qed")
        for args in ((), ("backing-uri=false",), ("backing-dir=/",),
                     ("backing-format=raw",)):
            if layer == "y.qed" and "backing-format=raw" in args:
                continue
            qedtest.refused(f"{t}/x.qed: backing file: {re.escape(name)}: "
                            ".*backing-uri=true", "qed", layer, *args)
try:
    s.accept()
    raise AssertionError("somebody connected")
except BlockingIOError:
    pass
END
