#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The commands of README and man page that lead out of QED make a qcow2 image
# and a raw file with the disk's content, also from an overlay.  Their
# comparison finds a difference.

source ./functions.sh qemu nbdcopy

cd $d
ln -s "$abs_top_builddir/nbdkit" nbdkit
ln -s "$abs_top_builddir/tools" tools
"$PYTHON" - <<'END'
import random
r = random.Random(8)
with open("base.raw", "wb") as f:
    f.write(r.randbytes(3 << 20))
    f.truncate(20 << 20)
END
qed-img create -q image.qed 20M
nbdkit -U - qed image.qed --run 'nbdcopy base.raw "$uri"'
qed-img create -q -b base.raw -F raw overlay.qed
for disk in image overlay; do
    nbdkit -U - qed $disk.qed --run 'qemu-io -f raw -c "write -P 7 1M 100k" \
        -c "write -P 8 17000k 123k" -c "write -z 2M 200k" "$uri"'
done
cp base.raw want.raw
qemu-io -f raw -c "write -P 7 1M 100k" -c "write -P 8 17000k 123k" \
        -c "write -z 2M 200k" want.raw

# out BLOCK COPY: run it for both images, then read the copy.
out ()
{
    for disk in image overlay; do
        rm -f disk.qed disk.qcow2 disk.raw
        ln -s $disk.qed disk.qed
        eval "$1"
        qemu-img convert -O raw "$2" got.raw
        cmp want.raw got.raw
        # It is as sparse as the disk.
        test $(du -k "$2" | cut -f 1) -lt 4500
    done
}

for block in \
    "$(doc_block README 'need not know QED.')" \
    "$(doc_block plugin/nbdkit-qed-plugin.pod '=item Convert an image to')"; do
    out "$block" disk.qcow2 >printed
    cat printed
    test $(grep -c 'Images are identical' printed) = 2
    qemu-io -f qcow2 -c 'write -P 1 19M 1' disk.qcow2
    # Only the second command now
    compare=$(sed '1,2d' <<<"$block")
    if eval "$compare" >printed; then
        fail "a difference was not found"
    fi
    grep 'Content mismatch at offset 19922944' printed
done
out "$(doc_block README 'To a raw file, without QEMU')" disk.raw
out "$(doc_block plugin/nbdkit-qed-plugin.pod '=item Copy the disk out')" \
    disk.raw

# The command in qed-img's message and man page
qed-img convert -O qcow2 disk.qed disk.qcow2 2>said || :
block=$(sed -n 's/.*: this makes another one of an image: \(nbdkit .*NEW.\): see.*/\1/p' \
            <(sed 's/; this makes/: this makes/' said))
block=${block/FILE/disk.qed}
out "${block/NEW/disk.qcow2}" disk.qcow2
block=$(doc_block tools/qed-img.pod 'need not know QED:')
out "${block#\$ }" disk.qcow2
