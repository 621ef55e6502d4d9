#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A create that fails halfway leaves no new file and does not change an old
# one.

source ./functions.sh nbd

mkdir $d/dir
"$PYTHON" - <<'END'
import qedimg, qedtest
img = qedimg.Image(1 << 20)
img.data(0)
img.save(qedtest.TMP + "/dir/old.qed")
END
state_of $d/dir/* >$d/before

# The limit on file lengths stands for any error of the system.  qed-img runs
# without valgrind, whose own files it would hit.  The signal that comes with
# the error must not kill qed-img.
limited ()
(
    ulimit -f 100
    "$abs_top_builddir/tools/qed-img" "$@"
)
for f in new.qed old.qed; do
    fails 1 "^qed-img: $d/dir/$f: .*File too large" \
          limited create $d/dir/$f 10M
    state_of $d/dir/* >$d/after
    cmp $d/before $d/after
done

# The filesystem is full.
if [ "$(id -u)" -eq 0 ] && mkdir $d/small &&
   mount -t tmpfs -o size=64k none $d/small; then
    cleanup_fn umount $d/small
    dd if=/dev/zero of=$d/small/fill bs=4k || :
    fails 1 "^qed-img: $d/small/x.qed: .*No space left" \
          qed-img create $d/small/x.qed 10M
    test "$(ls -A $d/small)" = fill
fi
