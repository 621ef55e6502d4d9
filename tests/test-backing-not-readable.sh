#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A backing file that may not be read, itself or its directory, is refused.

source ./functions.sh nbd

as=
if [ "$(id -u)" -eq 0 ]; then
    requires_program setpriv
    if ! setpriv --reuid 65534 --clear-groups test -x "$abs_top_builddir/nbdkit"
    then
        skip "other users can't get at the build directory"
    fi
    as="setpriv --reuid 65534 --clear-groups"
fi
mkdir $d/dir
touch $d/base $d/dir/base
"$PYTHON" - <<'END'
import qedimg, qedtest
qedimg.Image(1 << 20, backing="base").save(qedtest.TMP + "/x.qed")
qedimg.Image(1 << 20, backing="dir/base").save(qedtest.TMP + "/y.qed")
END
chmod 755 $d
chmod 644 $d/*.qed
chmod 0 $d/base $d/dir
cleanup_fn chmod 755 $d/dir
for x in x.qed y.qed; do
    fails 1 "$d/$x: backing file: $d/.*base: open: Permission denied" \
          timeout 60 $as nbdkit -r -U $d/sock qed $d/$x --run 'echo served'
    absent served $d/fails.out
done
