#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# An image in an archive is read through a filter of nbdkit, without unpacking
# it, also if the archive is compressed or on a web server.

source ./functions.sh nbd libnbd filter:tar,xz tar xz busybox nbdcopy
requires nbdkit curl --dump-plugin

cd $d
"$PYTHON" - <<'END'
import qedimg
img = qedimg.Image(16 << 20)
for cluster in (0, 1, 7, 100, 255):
    img.data(cluster)
img.save("disk.qed")
END
nbdkit -r -U - qed disk.qed --run 'nbdcopy "$uri" want.raw'
mkdir www
seq 1000 >readme
tar -c -f www/x.tar readme disk.qed
xz -k www/x.tar
rm disk.qed
start_web www
state_of www/* >before

# copies ARGS...: copy the disk of the image in the archive that ARGS name.
copies ()
{
    nbdkit -r -U - qed command=nbdkit arg=-r arg=--filter=tar "$@" \
           arg=tar-entry=disk.qed --run 'nbdcopy "$uri" got.raw'
    cmp want.raw got.raw
    rm got.raw
}
copies arg=file arg=www/x.tar
copies arg=--filter=xz arg=file arg=www/x.tar.xz
copies arg=curl arg=$web/x.tar
# Another file of the archive is no image.
refused 'not a QED image' -r qed command=nbdkit arg=-r arg=--filter=tar \
        arg=file arg=www/x.tar arg=tar-entry=readme

# The README's command.
ln -s "$abs_top_builddir/nbdkit" nbdkit
ln -s www/x.tar disks.tar
bash -e -c "$(doc_block README 'or in an archive:')"
cmp want.raw disk.raw

state_of www/* >after
cmp before after
