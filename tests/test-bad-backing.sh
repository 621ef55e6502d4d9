#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A backing file name that leads nowhere is refused, and qed-img info shows it.
# A name with a bad offset or length in the header is refused by both.

source ./functions.sh nbd qemu

qemu-img create -q -u -f qed -b base.raw -F raw $d/x.qed 2M
qemu-img create -q -u -f qed -b $d/x.qed -F qed $d/y.qed 2M
refused "$d/x.qed: backing file: $d/base.raw: .*No such file" qed $d/x.qed
refused "$d/x.qed: backing file: $d/base.raw: .*No such file" qed $d/y.qed
qed-img info $d/x.qed >$d/info
grep -F -x "backing file: base.raw (actual path: $d/base.raw)" $d/info
qed-img info $d/y.qed >$d/info
grep -x "backing file: $d/x.qed" $d/info

# The fields of the name.
"$PYTHON" - <<'END'
import re
import qedimg, qedtest

path = qedtest.TMP + "/b.qed"

def image(offset, size, name=b"base", header_size=1, cs=4096):
    img = qedimg.Image(1 << 20, cs, 1, header_size=header_size,
                       features=qedimg.F_BACKING_FILE)
    img.header["backing_filename_offset"] = offset
    img.header["backing_filename_size"] = size
    img.poke(offset, name)
    img.save(path)

def refused(rule):
    log = qedtest.refused(re.escape(path) + ": header: .*" + rule,
                          "qed", path)
    assert "backing file: " not in log, log
    qedtest.qed_img("info", path, status=1)

def looked_for(name):
    qedtest.refused(f"{re.escape(path)}: backing file: .*/{name}: open: ",
                    "qed", path)
    out, _ = qedtest.qed_img("info", path)
    assert f"backing file: {name}" in out, out

image(64, 4)
looked_for("base")
image(4096 - 4, 4)
looked_for("base")
image(8192 - 4, 4, header_size=2)
looked_for("base")
image(64, 4095, b"n" * 4095, header_size=2)
looked_for("n" * 4095)

SIZE = "backing_filename_size {}: must be from 1 to 4095"
for size in (0, 4096, 1 << 31, 0xffffffff):
    image(64, size)
    refused(SIZE.format(size))
for offset, size, header_size in ((4096 - 3, 4, 1), (4096, 4, 1),
                                  (8192 - 3, 4, 2), (0xffffffff, 1, 1),
                                  (0xffffffff, 1023, 1), (1 << 31, 4, 1),
                                  (4096 - 62, 63, 1)):
    image(offset, size, b"", header_size)
    refused(f"backing_filename_offset {offset}: .*{size} bytes must lie inside")
for name in (b"ba\0e", b"\0ase", b"bas\0"):
    image(64, 4, name)
    refused("must have no NUL")
END
