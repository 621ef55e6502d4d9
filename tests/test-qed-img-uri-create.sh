#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause
# create makes an image on what an NBD server exports, whatever that held: it
# begins as an image in a file does, and nothing behind is touched.  It can be
# written.

source ./functions.sh nbd libnbd qemu

cd $d
head -c 20M /dev/urandom >noise.raw
head -c 3M /dev/urandom >base.raw
truncate -s 20M x.raw
start_nbdkit file $d/x.raw

# same ARGS...: create a file and an image on the server alike.
same ()
{
    rm -f local.qed
    cat noise.raw >x.raw
    ends 0 qed-img create "${@:1:$#-1}" local.qed ${!#}
    sed 's/local.qed/URI/' ends.out >want
    ends 0 qed-img create "${@:1:$#-1}" "$uri" ${!#}
    sed "s|$uri|URI|" ends.out | diff - want
    end=$(stat -c %s local.qed)
    cmp -n $end local.qed x.raw
    cmp -i $end x.raw noise.raw
}
same 1G
same 64T
same -o cluster_size=4k,table_size=2 1M
same -b $d/base.raw -F raw 5M
same -b $d/base.raw -F raw ''
qemu-img info x.raw | grep -x 'file format: qed'
ends 0 qed-img create "$uri" 1.5G
ends 0 qed-img create -q "$uri" 6M
test ! -s ends.out
ends 0 qed-img check "$uri"

# A name that is relative to nothing, a server, no size: nothing is written.
state_of x.raw >before
fails 1 'backing file: base.raw: is a relative name, and an export has no dir' \
      qed-img create -b base.raw -F raw "$uri" 5M
fails 1 'backing file: nbd://localhost:1: .*onnect' \
      qed-img create -b nbd://localhost:1 -F raw "$uri" 5M
fails 1 'a size is missing' qed-img create "$uri"
state_of x.raw | cmp - before

# It takes a whole disk, by way of the plugin, and is what QEMU reads.
head -c 6M /dev/urandom >disk.raw
nbdkit -U - qed uri="$uri" --run 'nbdcopy disk.raw "$uri"'
ends 0 qed-img check "$uri"
stop_nbdkit
qemu-img compare -f raw -F qed disk.raw x.raw
