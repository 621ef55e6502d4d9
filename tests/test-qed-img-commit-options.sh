#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# -d leaves the image as it is.  A backing file further down is only read.  An
# image without content changes nothing.  Zeros give the backing file's space
# back.  Progress is shown with -p on a terminal, and -q is silent.

source ./functions.sh nbd qemu

cd $d
make ()
{
    rm -f base.raw mid.qed top.qed
    truncate -s 1M base.raw
    qemu-img create -q -f qed -b base.raw -F raw mid.qed
    qemu-io -f qed -c 'write -P 1 0 64k' mid.qed >/dev/null
    qemu-img create -q -f qed -b mid.qed -F qed top.qed
    qemu-io -f qed -c 'write -P 2 32k 64k' -c 'write -z 256k 64k' top.qed \
            >/dev/null
    qemu-img convert -f qed -O raw top.qed want.raw
}

make
state_of base.raw top.qed >before
qed-img commit -d top.qed | grep -x 'Image committed.'
state_of base.raw top.qed | diff -u before -
qemu-img compare -f qed -F raw mid.qed want.raw

make
state_of base.raw >before
qed-img commit -q -p top.qed >out
test ! -s out
state_of base.raw | diff -u before -
qemu-img compare -f qed -F raw mid.qed want.raw
qemu-img compare -f qed -F raw top.qed want.raw
state_of mid.qed >before
qed-img commit top.qed
state_of mid.qed | diff -u before -

# Two commits bring all content to the base.
qed-img commit mid.qed
cmp base.raw want.raw

# Progress is for a terminal.
make
qed-img commit -p top.qed | grep -x 'Image committed.'
make
cat >run-on-terminal.py <<'END'
import os, pty, shlex, sys
status = pty.spawn(shlex.split(os.environ["QED_IMG"]) + sys.argv[1:])
sys.exit(os.waitstatus_to_exitcode(status))
END
"$PYTHON" run-on-terminal.py commit -p top.qed </dev/null | tr '\r' '\n' >out
cat out
grep -x '    (100.00/100%)' out
grep -x 'Image committed.' out

# Zeros give the backing file's space back.
requires_punch_hole
dd if=/dev/zero of=full.raw bs=64k count=16 status=none
qemu-img create -q -f qed -b full.raw -F raw x.qed
qemu-io -f qed -c 'write -z 64k 896k' x.qed >/dev/null
qed-img commit x.qed
test "$(stat -c %b full.raw)" -le 512
