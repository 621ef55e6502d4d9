#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# On a terminal qed-img map prints a summary after the table.  Elsewhere it
# does not.

source ./functions.sh nbd

cd $d
cat >run-on-terminal.py <<'END'
import os, pty, shlex, sys
status = pty.spawn(shlex.split(os.environ["QED_IMG"]) + sys.argv[1:])
sys.exit(os.waitstatus_to_exitcode(status))
END
"$PYTHON" - <<'END'
import qedimg
MiB = 1 << 20
with open("base.raw", "wb") as f:
    f.truncate(32 * MiB)
    f.seek(16 * MiB)
    f.write(b"x" * 8 * MiB)
img = qedimg.Image(64 * MiB, backing="base.raw", features=4)
for c in range(4 * 16):
    img.data(c, b"x")
for c in (8 * 16, 60 * 16, 60 * 16 + 7, 63 * 16 + 15):
    img.data(c, b"x")
for c in range(48 * 16, 50 * 16):
    img.zero(c)
img.save("x.qed")
img.entry(40 * 16 + 5, 3)
img.save("bad.qed")
END
on_terminal ()
{
    "$PYTHON" run-on-terminal.py "$@" </dev/null | tr -d '\r' >out
    cat out
}

qed-img map x.qed >table
LC_ALL=C on_terminal map x.qed
cat table - >want <<'END'

    64 MiB 100.0%  from offset 0
  4.25 MiB   6.6%  data in x.qed
     2 MiB   3.1%  zeros in x.qed
     8 MiB  12.5%  data in base.raw
  19.9 MiB  31.2%  zeros in base.raw
  29.8 MiB  46.6%  nothing, which reads as zeros
[####....-...................................................-..-] x.qed
[................########........................................] base.raw
 . no data, -+* some, # only data
END
diff -u want out

# A summary of a part of the disk.  A cell may be less than a byte.
LC_ALL=C on_terminal map -s 1M -l 10 x.qed
grep -x '      10 B 100.0%  from offset 0x100000' out
grep -x '      10 B 100.0%  data in x.qed' out
grep -c '^\[[.#]*\] x.qed$' out
LC_ALL=C on_terminal map -s 7M -l 2M x.qed
grep -x '\[\.\{32\}##\.\{30\}\] x.qed' out
# A range beyond the end of the disk has no summary.
LC_ALL=C on_terminal map -s 1G x.qed
test "$(wc -l <out)" = 1

if locale -a | grep -i -x 'c.utf-\?8'; then
    LC_ALL=C.UTF-8 on_terminal map x.qed
    grep -F -x '[████····░···················································░··░] x.qed' \
         out
    grep -F -x '[················████████········································] base.raw' \
         out
fi
LC_ALL=C on_terminal map bad.qed || :
grep -F -x '[####....-...............................!...................-..-] bad.qed' \
     out
grep "    64 KiB   0.1%  can't be read in bad.qed" out

# The JSON has no summary, even on a terminal.
on_terminal map --output=json x.qed
qed-img map --output=json x.qed | cmp - out
