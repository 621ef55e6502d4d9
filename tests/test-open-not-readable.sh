#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# An image that may not be read is refused.

source ./functions.sh nbd

if [ "$(id -u)" -eq 0 ]; then
    # Another user, which must have access to the plugin but not to the image.
    requires_program setpriv
    if ! setpriv --reuid 65534 --clear-groups test -x "$abs_top_builddir/nbdkit"
    then
        skip "other users can't get at the build directory"
    fi
    as="setpriv --reuid 65534 --clear-groups"
fi
"$PYTHON" - <<'END'
import qedimg, qedtest
qedimg.Image(1 << 20).save(qedtest.TMP + "/x.qed")
END
chmod 0 $d/x.qed
chmod 755 $d
fails 1 "$d/x.qed: .*Permission denied" \
      timeout 60 $as nbdkit -U $d/sock qed $d/x.qed --run 'echo served'
absent served $d/fails.out
