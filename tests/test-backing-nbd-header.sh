#!/usr/bin/env bash
# nbdkit-qed
# Copyright (C) 2026 nbdkit-qed authors
#
# Redistribution and use in source and binary forms, with or without
# modification, are permitted provided that the following conditions are
# met:
#
# * Redistributions of source code must retain the above copyright
# notice, this list of conditions and the following disclaimer.
#
# * Redistributions in binary form must reproduce the above copyright
# notice, this list of conditions and the following disclaimer in the
# documentation and/or other materials provided with the distribution.
#
# * Neither the name of nbdkit-qed nor the names of its contributors may be
# used to endorse or promote products derived from this software without
# specific prior written permission.
#
# THIS SOFTWARE IS PROVIDED BY THE AUTHORS AND CONTRIBUTORS ''AS IS'' AND
# ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO,
# THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A
# PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE AUTHORS OR
# CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
# SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT
# LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF
# USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND
# ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY,
# OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT
# OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF
# SUCH DAMAGE.

source ./functions.sh
set -e
set -x
requires_nbd
nbdkit qed --dump-plugin | grep -x qed_libnbd=yes || skip "no libnbd"

# A URI in an image's header is followed only if the user says so, and then it
# can't make us read files with keys: it may name a socket, no more.
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

# Under an image that the user named, too.
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
