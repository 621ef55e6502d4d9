#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# lock is a boolean, in the words that nbdkit takes.

source ./functions.sh nbd nbdinfo

"$PYTHON" - <<'END'
import qedimg, qedtest
qedimg.Image(1 << 20).save(qedtest.TMP + "/x.qed")
END
for v in '' maybe 2 truely; do
    refused 'lock|boolean' qed $d/x.qed lock="$v"
done
for v in true false 1 0 on off; do
    start_nbdkit qed $d/x.qed lock=$v
    test "$(nbdinfo --size "$uri")" = 1048576
    stop_nbdkit
done
