#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# nbdcopy copies a sparse disk into a new image over many connections with many
# requests in flight.  Content and holes arrive.

source ./functions.sh nbd qemu nbdcopy

"$PYTHON" - <<'END'
import os, random
import qedtest

MiB = 1 << 20
r = random.Random(16)
b = r.randbytes(8 * MiB)
with open(qedtest.TMP + "/source.raw", "wb") as f:
    size = 150 * MiB + 512
    f.truncate(size)
    for _ in range(150):
        n = int(2 ** r.uniform(9, 20))
        offset = r.randrange(size - n)
        at = r.randrange(len(b) - n)
        # As a filesystem does it, or at any place.
        if r.random() < 0.7:
            offset = offset // 4096 * 4096
        os.pwrite(f.fileno(), b[at:at + n], offset)
END
used=$(stat -c %b $d/source.raw)
for options in $(some cluster_size=4k,table_size=1 \
                      cluster_size=64k,table_size=4); do
    for how in $(some '--connections=4,--requests=64' \
                      '--destination-is-zero,--connections=8' \
                      '--flush,--synchronous'); do
        qed-img create -o $options $d/x.qed $((150 * 1048576 + 512))
        start_nbdkit qed $d/x.qed
        nbdcopy ${how//,/ } $d/source.raw "$uri"
        nbdcopy "$uri" - | cmp - $d/source.raw
        stop_nbdkit
        nbdkit -r -U - qed $d/x.qed --run 'nbdcopy "$uri" -' |
            cmp - $d/source.raw
        "$PYTHON" -c '
import qedimg, sys
qedimg.References (sys.argv[1]).check_clean ()' $d/x.qed
        # nbdcopy finds holes in units of the export's preferred size.
        test $(stat -c %b $d/x.qed) -le $((used + 150 * 2 * 128))
        if [ $options = cluster_size=64k,table_size=4 ]; then
            qemu-img compare -f raw -F qed $d/source.raw $d/x.qed
            qemu-img check -f qed $d/x.qed || test $? -eq 3
        fi
        rm $d/x.qed
    done
done
