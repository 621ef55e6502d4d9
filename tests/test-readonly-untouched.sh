#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# With -r no byte, time or size of the image changes, whatever a client does.
# (I10)

source ./functions.sh nbd nbdinfo

"$PYTHON" - <<'END'
import qedimg, qedtest
img = qedimg.Image(40 << 20, features=qedimg.F_NEED_CHECK,
                   autoclear_features=5, compat_features=6)
for c in (0, 1, 5, 100):
    img.data(c)
img.zero(2)
img.entry(3, 77)
img.tail = b"partial"
img.save(qedtest.TMP + "/x.qed")
END
state_of $d/x.qed >$d/before

start_nbdkit -r qed $d/x.qed
nbdsh -u "$uri" -c '
h.set_strict_mode (0)
assert h.is_read_only ()
def refused (fn, *args):
    try:
        fn (*args)
        assert False, fn
    except nbd.Error as e:
        assert e.errno == "EPERM", e
refused (h.pwrite, b"x" * 65536, 0)
refused (h.pwrite, b"x", 10 << 20)
refused (h.zero, 65536, 0)
refused (h.zero, 65536, 20 << 20)
refused (h.trim, 65536, 0)
h.pread (10 << 20, 1 << 20)
h.cache (65536, 65536)
try:
    h.pread (1, 3 * 65536)
    assert False
except nbd.Error as e:
    assert e.errno == "EIO", e
'
nbdinfo --map "$uri"

# The plugin has no descriptor that allows writing.
for fd in /proc/$(cat $pidfile)/fd/*; do
    if [ "$(readlink $fd)" = $d/x.qed ]; then
        grep -E '^flags:.*[04]$' ${fd/\/fd\//\/fdinfo\/}
    fi
done | grep flags
stop_nbdkit
state_of $d/x.qed >$d/after
cmp $d/before $d/after

# A file and directory that can't be written do as well.  (Root always can,
# so this says more for others.)
chmod 0444 $d/x.qed
mkdir $d/ro
mv $d/x.qed $d/ro
chmod 0555 $d/ro
cleanup_fn chmod 0755 $d/ro
nbdkit -r -U - qed $d/ro/x.qed --run 'nbdinfo --size "$uri"'
