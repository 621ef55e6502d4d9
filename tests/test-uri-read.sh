#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# An image on an NBD server reads as it does in a file: content and extents, for
# clients in parallel, in the foreground and in the background, and data is
# fetched in advance.  An overlay there may name a backing file by an absolute
# name in an allowed directory only.

source ./functions.sh nbd libnbd nbdcopy filter:blocksize-policy,log

"$PYTHON" - <<'END'
import os
import qedimg, qedtest

os.chdir(qedtest.TMP)
for cs, ts in qedtest.some(((4096, 1), (65536, 4), (1 << 20, 2)), 1):
    img = qedimg.Image(64 * cs + 512, cs, ts)
    for i in 0, 1, 7, 20, 21, 22, 63, 64:
        img.data(i)
    for i in 3, 4, 23:
        img.zero(i)
    img.entry(9, 3)
    img.save("x.qed")
    # A server may take whole blocks only.
    os.truncate("x.qed", -(-os.path.getsize("x.qed") // 4096) * 4096)
    model = qedimg.Model("x.qed")
    for options in (), ("blocksize-minimum=4096", "blocksize-maximum=1M",
                        "blocksize-preferred=64K",
                        "blocksize-error-policy=error"):
        with qedtest.Server("--filter=blocksize-policy", "file", "x.qed",
                            *options) as store, \
             qedtest.Server("-r", "qed", "uri=" + store.uri) as s:
            qedtest.check_all(s.connect(), model)
            qedtest.check_content(s.connect(), model)
    model.close()
END

cd $d
mkdir below
nbdkit -U - pattern 4M --run 'nbdcopy "$uri" below/base'
qed-img create -b $d/below/base -F raw abs.qed
qed-img create -b below/base -F raw rel.qed
start_nbdkit -n store file dir=$d
store=$d/store.sock
refused 'below/base: is relative to the directory of the image, and an export has none: backing=NAME' \
        qed uri="nbd+unix:///rel.qed?socket=$store"
refused "$d/below/base, and an image in a device or an export.*add backing-dir=$d/below" \
        qed uri="nbd+unix:///abs.qed?socket=$store"
nbdkit -r -U - qed uri="nbd+unix:///abs.qed?socket=$store" backing-dir=$d \
       --run 'nbdcopy "$uri" got'
cmp got below/base
nbdkit -r -U - qed uri="nbd+unix:///rel.qed?socket=$store" backing=below/base \
       --run 'nbdcopy "$uri" got'
cmp got below/base

# Fetching data in advance is a request of NBD, too: for the data, not for all.
qed-img create -q -f qed cached.qed 1M
start_nbdkit qed cached.qed
nbdsh -u "$uri" -c 'h.pwrite(b"x" * 65536, 131072)'
stop_nbdkit
start_nbdkit -n cached --filter=log file cached.qed logfile=$d/requests
start_nbdkit -r qed uri="nbd+unix:///?socket=$d/cached.sock"
nbdsh -u "$uri" -c 'h.cache(262144, 0)'
stop_nbdkit
grep -E ' Cache id=[0-9]+ offset=0x[1-9a-f][0-9a-f]* count=0x10000 ' requests
test "$(grep -c ' Cache ' requests)" = 1

# In the background the connection goes on.
nbdkit -r -U $d/bg.sock -P $d/bg.pid qed \
       uri="nbd+unix:///abs.qed?socket=$store" backing=below/base
cleanup_fn kill "$(cat bg.pid)"
nbdcopy "nbd+unix:///?socket=$d/bg.sock" got
cmp got below/base
