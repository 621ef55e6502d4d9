#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# An image in a compressed file is read through a filter of nbdkit, without
# unpacking it.

source ./functions.sh nbd libnbd filter:gzip,xz gzip xz nbdcopy nbdinfo

cd $d
"$PYTHON" - <<'END'
import qedimg
img = qedimg.Image(16 << 20)
for cluster in (0, 1, 7, 100, 255):
    img.data(cluster)
img.save("disk.qed")
END
nbdkit -r -U - qed disk.qed --run 'nbdcopy "$uri" want.raw'
# A read unpacks the blocks that it needs.
xz --block-size=128KiB -k disk.qed
gzip -k disk.qed
rm disk.qed
state_of disk.qed.* >before

for kind in xz gzip; do
    file=disk.qed.${kind/gzip/gz}
    through=("arg=--filter=$kind" arg=file "arg=$file")
    nbdkit -r -U - qed command=nbdkit arg=-r "${through[@]}" \
           --run 'nbdcopy "$uri" got.raw'
    cmp want.raw got.raw
    rm got.raw
    start_nbdkit -n mid -r --filter=$kind file $file
    nbdkit -r -U - qed uri="$uri" --run 'nbdcopy "$uri" got.raw'
    stop_nbdkit mid
    cmp want.raw got.raw
    rm got.raw
    # Without -r the disk can't be written to, either.
    nbdkit -U - qed command=nbdkit "${through[@]}" \
           --run 'nbdinfo --is read-only "$uri"'
done

# The README's command.
ln -s "$abs_top_builddir/nbdkit" nbdkit
bash -e -c "$(doc_block README 'in a compressed file,')"
cmp want.raw disk.raw

state_of disk.qed.* >after
cmp before after
