#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# An image without permission to write becomes a read-only export.  A debug
# message gives the reason.

source ./functions.sh nbd nbdcopy nbdinfo

if [ "$(id -u)" -eq 0 ]; then
    # Another user, which must have access to the plugin.
    requires_program setpriv
    if ! setpriv --reuid 65534 --clear-groups test -x "$abs_top_builddir/nbdkit"
    then
        skip "other users can't get at the build directory"
    fi
    as="setpriv --reuid 65534 --clear-groups"
fi
"$PYTHON" - <<'END'
import qedimg, qedtest
img = qedimg.Image(1 << 20, autoclear_features=3,
                   features=qedimg.F_NEED_CHECK)
img.data(0)
img.tail = b"tail"
img.save(qedtest.TMP + "/x.qed")
END
chmod 0444 $d/x.qed
mkdir $d/sock
chmod 777 $d/sock
chmod 755 $d
state_of $d/x.qed >$d/before
$as timeout 60 "$abs_top_builddir/nbdkit" -v -U $d/sock/s qed $d/x.qed \
    --run 'nbdinfo --json "$uri"; nbdcopy "$uri" null:' \
    2>$d/err >$d/out
grep '"is_read_only": true' $d/out
grep -E "debug: .*$d/x.qed: .*Permission denied" $d/err
absent ' error: ' $d/err
state_of $d/x.qed >$d/after
cmp $d/before $d/after
