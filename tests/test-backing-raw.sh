#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A raw backing file may have the image's length, be shorter or longer, end
# inside a sector, or be empty.

source ./functions.sh nbd qemu nbdcopy

"$PYTHON" - <<'END'
import random
import qedtest
open(qedtest.TMP + "/random", "wb").write(random.Random(1).randbytes(3 << 20))
END
for length in $(some 2M 1M 3M 1234567 1000 1 0); do
    for cluster_size in 4k 64k 1M; do
        cp $d/random $d/base.raw
        truncate -s $length $d/base.raw
        rm -f $d/x.qed
        qemu-img create -q -f qed -b base.raw -F raw \
                 -o cluster_size=$cluster_size $d/x.qed 2M
        same_as_qemu $d/x.qed
        # Data, zeros that hide the backing file, and parts of clusters,
        # before, at and behind its end.
        qemu-io -f qed -c 'write -P 1 64k 64k' -c 'write -z 128k 1M' \
                -c 'write -P 2 1230k 5k' -c 'write -z 1600k 128k' \
                $d/x.qed >/dev/null
        same_as_qemu $d/x.qed
    done
done
