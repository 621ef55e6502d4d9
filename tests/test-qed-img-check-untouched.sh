#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A check writes nothing, so it needs no permission to write.  A repair needs
# it, and says so.

source ./functions.sh nbd

as=
if [ "$(id -u)" -eq 0 ]; then
    # Another user, which must have access to qed-img.
    requires_program setpriv
    as="setpriv --reuid 65534 --clear-groups"
    if ! $as test -x "$abs_top_builddir/tools/qed-img"; then
        skip "other users can't get at the build directory"
    fi
fi
"$PYTHON" - <<'END'
import qedimg, qedtest
for name, bad in ("leaks", False), ("bad", True):
    img = qedimg.Image(1 << 20, autoclear_features=3,
                       features=qedimg.F_NEED_CHECK)
    img.data(0)
    if bad:
        img.entry(1, 5)
    img.alloc()
    img.tail = b"tail"
    img.save(f"{qedtest.TMP}/{name}.qed")
END
chmod 0444 $d/*.qed
chmod 755 $d
state_of $d/*.qed >$d/before
ends 3 $as $QED_IMG check $d/leaks.qed
ends 2 $as $QED_IMG check $d/bad.qed
fails 1 "^qed-img: $d/leaks.qed: .*Permission denied" \
      $as $QED_IMG check -r leaks $d/leaks.qed
fails 1 "^qed-img: $d/bad.qed: .*Permission denied" \
      $as $QED_IMG check -r all $d/bad.qed
state_of $d/*.qed >$d/after
cmp $d/before $d/after
