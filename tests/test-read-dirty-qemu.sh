#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A killed QEMU leaves NEED_CHECK set.  nbdkit -r reads such an image without a
# check and does not change it.

source ./functions.sh nbd qemu

qemu-img create -q -f qed $d/dirty.qed 10M
qemu-io -f qed -c 'write -P 7 1234567 200k' -c flush -c 'sigraise 9' \
        $d/dirty.qed || :
"$PYTHON" - <<'END'
import qedimg, qedtest
features = qedimg.Model(qedtest.TMP + "/dirty.qed").header["features"]
assert features == qedimg.F_NEED_CHECK, features
END
state_of $d/dirty.qed >$d/before

start_nbdkit -r qed $d/dirty.qed
nbdsh -u "$uri" -c '
assert h.pread (204800, 1234567) == b"\x07" * 204800
'
path=$d/dirty.qed uri=$uri "$PYTHON" - <<'END'
import os, qedimg, qedtest
qedtest.check_all(qedtest.connect(os.environ["uri"]),
                  qedimg.Model(os.environ["path"]))
END
stop_nbdkit
state_of $d/dirty.qed >$d/after
cmp $d/before $d/after
