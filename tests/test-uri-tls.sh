#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# An image on an export is read and written over TLS, by several clients at
# once, and the wrong key is refused.

source ./functions.sh nbd libnbd psktool nbdcopy cmp
requires "$PYTHON" -c 'import nbd; assert nbd.NBD ().supports_tls ()'

psktool -u qed -p $d/psk >/dev/null
psktool -u qed -p $d/other.psk >/dev/null
truncate -s 64M $d/device
qed-img create $d/x.qed 32M
dd if=$d/x.qed of=$d/device conv=notrunc status=none
NBDKIT_VALGRIND='' start_nbdkit -n base --tls=require --tls-psk=$d/psk \
    file $d/device
base="nbds+unix://qed@/?socket=$d/base.sock&tls-psk-file=$d"

refused 'other.psk: .*handshake' qed uri="$base/other.psk"
start_nbdkit -n x qed uri="$base/psk"
head -c 32M /dev/urandom >$d/disk
nbdcopy --connections=4 --requests=16 $d/disk "$uri"
nbdcopy --connections=4 --requests=16 "$uri" $d/copy
cmp $d/disk $d/copy
stop_nbdkit x
start_nbdkit -n y -r qed $d/device
nbdcopy "$uri" $d/copy
cmp $d/disk $d/copy
