#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The file parameter is required.  Its key may be left out.

source ./functions.sh nbd nbdinfo

"$PYTHON" - <<'END'
import qedimg, qedtest
qedimg.Image(1 << 20).save(qedtest.TMP + "/x.qed")
END
refused 'file' qed
refused 'file' qed cache-size=1M
refused 'file|empty path' qed file=
refused 'unknown.*fiel' qed fiel=$d/x.qed $d/x.qed

for arg in $d/x.qed file=$d/x.qed; do
    start_nbdkit qed $arg
    test "$(nbdinfo --size "$uri")" = 1048576
    stop_nbdkit
    start_nbdkit qed lock=true $arg cache-size=1M
    test "$(nbdinfo --size "$uri")" = 1048576
    stop_nbdkit
done
