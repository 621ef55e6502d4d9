#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Backing files are never changed nor opened for writing.  With -r the image is
# not, either.

source ./functions.sh nbd qemu nbdinfo

cd $d
head -c 2M /dev/urandom >base.raw
qemu-img create -q -f qed -b base.raw -F raw low.qed 3M
qemu-io -f qed -c 'write -P 1 0 64k' -c 'write -z 1M 64k' low.qed >/dev/null
"$PYTHON" - <<'END'
import qedimg, qedtest
# An image with everything that a writer would repair: NEED_CHECK, autoclear
# bits, an unsound entry and a partial last cluster.
img = qedimg.Image(4 << 20, features=qedimg.F_NEED_CHECK, autoclear_features=5,
                   backing="low.qed")
img.data(3)
img.entry(5, 77)
img.tail = b"partial"
img.save(qedtest.TMP + "/mid.qed")
img = qedimg.Image(5 << 20, backing="mid.qed")
img.data(7)
img.save(qedtest.TMP + "/x.qed")
END
below="base.raw low.qed mid.qed"
state_of $below x.qed >before
state_of $below >before-below

not_writable ()
{
    local fd
    for fd in /proc/$(cat $pidfile)/fd/*; do
        case "$(readlink $fd)" in
            "$d/base.raw" | "$d/low.qed" | "$d/mid.qed" | "$1")
                # O_RDONLY: the last octal digit's two low bits
                grep -E '^flags:.*[04]$' ${fd/\/fd\//\/fdinfo\/} ;;
        esac
    done | grep -c flags
}

start_nbdkit -r qed x.qed
nbdsh -u "$uri" -c '
assert h.is_read_only ()
h.set_strict_mode (0)
for fn, *args in (h.pwrite, b"x" * 512, 0), (h.zero, 65536, 0), \
                 (h.trim, 65536, 0):
    try:
        fn (*args)
        assert False, fn
    except nbd.Error as e:
        assert e.errno == "EPERM", e
h.pread (300 << 10, 0)
h.pread (1 << 20, 2 << 20)
h.cache (1 << 20, 1 << 20)
try:
    h.pread (512, 5 << 16)
    assert False
except nbd.Error as e:
    assert e.errno == "EIO", e
'
nbdinfo --map "$uri"
test "$(not_writable $d/x.qed)" -ge 4
stop_nbdkit
state_of $below x.qed >after
cmp before after

# Writable: only the overlay is.
start_nbdkit qed x.qed
nbdsh -u "$uri" -c '
h.pwrite (b"w" * 70000, 1000)
h.zero (1 << 20, 1 << 20)
h.trim (1 << 20, 2 << 20)
h.flush ()
assert h.pread (70000, 1000) == b"w" * 70000
'
test "$(not_writable nothing)" -ge 3
stop_nbdkit
state_of $below >after-below
cmp before-below after-below
qed-img info x.qed

# The backing files need no permission to write, and may be on a read-only
# filesystem.
chmod 444 $below
start_nbdkit qed x.qed
nbdsh -u "$uri" -c 'h.pwrite (b"w" * 70000, 1000)'
