#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# qed-img info refuses a file that is no QED image.  It exits with code 1 and a
# message, and prints nothing on stdout.

source ./functions.sh nbd

cd $d
bad ()
{
    fails 1 "^qed-img: $1" timeout 60 "$abs_top_builddir/tools/qed-img" \
          info "${@:2}"
    test ! -s fails.out
}
mkfifo fifo
echo text >text
: >empty
bad 'none: .*No such file' none
bad '.: is a directory' .
bad 'fifo: is a FIFO' fifo
bad '/dev/null: is a character device' /dev/null
bad 'text: header: the file has 5 bytes' text
bad 'empty: header: the file has 0 bytes' empty
bad '.*one file name'
bad '.*one file name' a b
bad '.*xml' --output=xml text
bad '.*raw' -f raw text
bad '.*--nonsense' --nonsense text
"$PYTHON" - <<'END'
import qedimg
img = qedimg.Image(1 << 20)
img.header["table_size"] = 3
img.save("table.qed")
img = qedimg.Image(1 << 20, features=8)
img.save("feature.qed")
END
bad 'table.qed: header: table_size 3: must be a power of 2' table.qed
bad 'feature.qed: header: features 0x8: only 0x7 are known' feature.qed
