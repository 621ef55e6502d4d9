#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A QED backing file is locked like an image that is read.  A raw one excludes
# only programs that want it for themselves.

source ./functions.sh nbd qemu

cd $d
qemu-img create -q -f qed base.qed 4M
qemu-io -f qed -c 'write -P 5 0 1M' base.qed >/dev/null
qemu-img create -q -f qed -b base.qed -F qed a.qed
qemu-img create -q -f qed -b base.qed -F qed b.qed
head -c 4M /dev/urandom >base.raw
qemu-img create -q -f qed -b base.raw -F raw c.qed
qemu-img create -q -f qed -b base.raw -F raw d.qed
lock='Failed to get "?(write|consistent read)"? lock|Failed to get shared'
in_use='locked: another process has the image open'

# Two pairs of overlays share a base.  In the second pair one is writable.
start_nbdkit -n a qed a.qed
nbdsh -u "$uri" -c 'h.pwrite (b"a" * 512, 0); h.flush ()'
start_nbdkit -n b -r qed b.qed
nbdsh -u "$uri" -c 'assert h.pread (512, 0) == b"\5" * 512'
start_nbdkit -n c qed c.qed
nbdsh -u "$uri" -c 'h.pwrite (b"c" * 512, 0); h.flush ()'
start_nbdkit -n d -r qed d.qed
nbdsh -u "$uri" -c '
import os
want = open (os.environ["d"] + "/base.raw", "rb").read (512)
assert h.pread (512, 0) == want
'
# QEMU can open the base for reading but not for writing.
fails 1 "$lock" qemu-io -f qed -c 'write 0 512' base.qed
qemu-io -r -f qed -c 'read -P 5 0 512' base.qed >out
absent failed out
qemu-io -r -f qed -c 'read -P 5 1k 512' b.qed >out
absent failed out
qemu-img info base.qed >/dev/null
# Nor does another nbdkit.
start_nbdkit -n base qed base.qed
fails 1 '' nbdsh -u "$uri" -c 'h.pwrite (b"x" * 512, 0)'
grep -E "base.qed: $in_use" $log
stop_nbdkit base
for n in a b c d; do
    stop_nbdkit $n
done
start_nbdkit -n base qed base.qed
nbdsh -u "$uri" -c 'h.pwrite (b"\5" * 512, 0)'
stop_nbdkit base

# While QEMU writes the base, nbdkit refuses the overlay.  The same holds for a
# layer further down.
qemu-img create -q -f qed -b a.qed -F qed top.qed
start_qemu_nbd -f qed base.qed
refused "$d/b.qed: backing file: $d/base.qed: $in_use" qed b.qed
refused "$d/a.qed: backing file: $d/base.qed: $in_use" -r qed top.qed
start_nbdkit -r qed b.qed lock=false
nbdsh -u "$uri" -c 'assert h.pread (512, 4096) == b"\5" * 512'
stop_nbdkit
start_nbdkit -r qed b.qed backing=none
stop_nbdkit
stop_qemu_nbd
# Other programs may write a raw base: QEMU itself only shares its reading.
start_qemu_nbd -f raw base.raw
start_nbdkit -r qed c.qed
stop_nbdkit
stop_qemu_nbd
# While nbdkit writes the base, QEMU and nbdkit refuse its overlays.
start_nbdkit -n base qed base.qed
nbdsh -u "$uri" -c 'h.pwrite (b"\5" * 512, 0)'
fails 1 "$lock" qemu-io -f qed -c 'read 0 512' b.qed
refused "$d/b.qed: backing file: $d/base.qed: $in_use" qed b.qed
stop_nbdkit base

# Locks of a program that needs a file which no other program changes.
"$PYTHON" - <<'END'
import fcntl, os, struct
import qedtest
t = qedtest.TMP
F_OFD_GETLK, F_OFD_SETLK = 36, 37
FLOCK = struct.Struct("hhqqi4x")
def lock(path, byte):
    fd = os.open(path, os.O_RDWR)
    fcntl.fcntl(fd, F_OFD_SETLK,
                FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0))
    return fd
def held(path, byte):
    fd = os.open(path, os.O_RDWR)
    got = fcntl.fcntl(fd, F_OFD_GETLK,
                      FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
    os.close(fd)
    return FLOCK.unpack(got)[0] != fcntl.F_UNLCK
BYTES = range(100, 104), range(200, 204)
for overlay, base, holds, tests in (("c.qed", "base.raw", {100}, {200}),
                                    ("b.qed", "base.qed", {100, 201, 203},
                                     {200, 101, 103})):
    path = f"{t}/{base}"
    with qedtest.Server("-r", "qed", overlay):
        got = {b for r in BYTES for b in r if held(path, b)}
        assert got == holds, (base, got)
    for b in (b for r in BYTES for b in r):
        fd = lock(path, b)
        if b in tests:
            qedtest.refused(f"{t}/{overlay}: backing file: {path}: locked: ",
                            "qed", overlay)
        else:
            with qedtest.Server("-r", "qed", overlay):
                pass
        os.close(fd)
END
