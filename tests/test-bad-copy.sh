#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A copy of an image with unsound clusters fails, and does not have zeros
# there.  With one thread, because nbdkit 1.32 may abort when a client leaves
# while other threads still answer it.

source ./functions.sh nbd nbdcopy

"$PYTHON" - <<'END'
import qedimg, qedtest
img = qedimg.Image(10 << 20)
for c in range(20):
    img.data(c)
img.save(qedtest.TMP + "/good.qed")
img.entry(11, img.end * 65536)
img.save(qedtest.TMP + "/bad.qed")
END
nbdkit -U - qed $d/good.qed --run 'nbdcopy "$uri" $d/copy.raw'
fails 1 'Input/output error' \
      nbdkit -t 1 -U - qed $d/bad.qed --run 'nbdcopy "$uri" $d/copy.raw'
grep -F "$d/bad.qed: offset 720896 of the disk: L2 entry" $d/fails.log
