#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A URI in an image's header is followed only if the user allows it.  Even then
# it may name a socket and nothing more, so that it cannot make nbdkit read key
# files.

source ./functions.sh nbd libnbd

start_nbdkit -n base pattern 1M
base_uri=$uri
make_image ()                   # URI
{
    "$PYTHON" - "$1" <<'END'
import sys
import qedimg, qedtest
img = qedimg.Image(1 << 20, features=qedimg.F_BACKING_FILE)
img.header["backing_filename_offset"] = 64
img.header["backing_filename_size"] = len(sys.argv[1])
img.poke(64, sys.argv[1].encode())
img.save(qedtest.TMP + "/x.qed")
END
}
make_image "$base_uri"
refused "$d/x.qed: .*backing-uri=true" qed $d/x.qed
refused "$d/x.qed: .*backing-uri=true" qed $d/x.qed backing-uri=false
start_nbdkit -n x qed $d/x.qed backing-uri=true
nbdsh -u "$uri" -c 'assert h.pread(8, 1000) == (1000).to_bytes(8, "big")'
stop_nbdkit x

# The same for a lower layer.
qed-img create $d/top.qed 1M
start_nbdkit -n x qed $d/top.qed backing=$d/x.qed backing-uri=true
nbdsh -u "$uri" -c 'assert h.pread(8, 1000) == (1000).to_bytes(8, "big")'
stop_nbdkit x
refused "$d/x.qed: .*backing-uri=true" qed $d/top.qed backing=$d/x.qed

for more in tls-psk-file=$d/keys tls-certificates=$d TLS-PSK-FILE=$d/keys \
            tls%2Dpsk-file=$d/keys x; do
    for uri in "$base_uri&$more" "$base_uri;$more" \
               "nbds+unix:///?$more&socket=$d/base.sock" \
               "nbd://localhost/?$more"; do
        make_image "$uri"
        refused "$d/x.qed: .*may have no parameter but socket" \
                qed $d/x.qed backing-uri=true
    done
done

# The user may name such files: this one isn't there.
make_image base
refused "keys" qed $d/x.qed \
        backing="nbds+unix://user@/?tls-psk-file=$d/keys&socket=$d/base.sock"
