#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A host error that NBD cannot express is EIO for the client, not an error of
# its own making.  The message names the host's error.

source ./functions.sh nbd strace

"$PYTHON" - <<'END'
import os, qedimg
img = qedimg.Image(1 << 20)
img.data(0)
img.save(os.environ["d"] + "/x.qed")
END
for e in ESTALE EBADMSG EACCES EIO; do
    # strace counts for each thread: the one with the request reads two tables
    # before the data.
    ASAN_OPTIONS=detect_leaks=0 strace -f -o $d/trace -P $d/x.qed \
        -e trace=pread64 -e inject=pread64:error=$e:when=3+ \
        "$abs_top_builddir/nbdkit" -v -U - qed $d/x.qed --run \
        "'$PYTHON' -c '
import errno, nbd, sys
h = nbd.NBD ()
h.connect_uri (sys.argv[1])
try:
    h.pread (512, 0)
    sys.exit (\"it was read\")
except nbd.Error as ex:
    assert ex.errnum == errno.EIO, ex
' \"\$uri\"" 2>$d/err || { cat $d/err; fail "$e"; }
    grep -F "$d/x.qed: read of 512 bytes at" $d/err
done
