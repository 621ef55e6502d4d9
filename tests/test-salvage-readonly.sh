#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# With salvage=true nothing can be written, with -r or without.  The image does
# not change, even if it is marked NEED_CHECK.

source ./functions.sh nbd nbdcopy nbdinfo

cd $d
"$PYTHON" - <<'END'
import qedimg
img = qedimg.Image(2 << 20, features=qedimg.F_NEED_CHECK)
img.data(1)
img.entry(2, 12345)
img.tail = b"tail"
img.save("x.qed")
END
state_of x.qed >before
for r in '' -r; do
    start_nbdkit $r qed x.qed salvage=true
    nbdsh -u "$uri" -c '
assert h.is_read_only ()
h.set_strict_mode (0)
for f in (lambda: h.pwrite (b"x" * 512, 0), lambda: h.zero (512, 0),
          lambda: h.trim (512, 0)):
    try:
        f ()
        assert False
    except nbd.Error as e:
        assert e.errno in ("EPERM", "EROFS"), e
assert h.pread (65536, 2 * 65536) == bytes (65536)
h.flush ()
'
    stop_nbdkit
done
state_of x.qed | diff before -

# Two servers share the image, because neither writes it.
start_nbdkit qed x.qed salvage=true
nbdkit -U - qed x.qed salvage=true --run 'nbdinfo --size "$uri"'
stop_nbdkit

# false is the default; it is a boolean.
for args in '' salvage=false; do
    nbdkit -r -U - qed x.qed $args --run 'nbdinfo --size "$uri"' 2>err
    test ! -s err
    fails 1 'Input/output error' nbdkit -t 1 -r -U - qed x.qed $args \
          --run 'nbdcopy "$uri" null:'
done
for v in '' maybe 2; do
    refused 'salvage|boolean' qed x.qed salvage="$v"
done
