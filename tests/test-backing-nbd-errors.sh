#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A server that cannot be reached is an error before nbdkit serves anything.
# The message names the image and the URI.  An error that the server reports is
# an error for the client, and the connection stays.

source ./functions.sh nbd filter:error libnbd

qed-img create $d/x.qed 1M
check_refused ()                # URI REGEX
{
    refused "error: $d/x.qed: .*$2" qed $d/x.qed backing="$1"
    grep -F "$1" $d/refused.log
}
check_refused "nbd+unix:///?socket=$d/absent" 'No such file or directory'
touch $d/file
check_refused "nbd+unix:///?socket=$d/file" 'Connection refused'
check_refused "nbd+unix:///" '.'
# A URI must not depend on the current directory, because nbdkit may connect
# again from another one.
check_refused "nbd+unix:///?socket=base.sock" \
              "the name after socket= must begin with '/'"
check_refused "nbds+unix:///?socket=$d/base.sock&tls-psk-file=keys" \
              "the name after tls-psk-file= must begin with '/'"
check_refused "nbd://localhost:1/" 'Connection refused'
check_refused "nbd+unix:///absent?socket=$d/base.sock" '.'

# A server that has no such export, one that wants TLS, one that is something
# else.
start_nbdkit -n base eval get_size='echo 1M' pread='head -c $3 /dev/zero' \
             open='if [ "$3" = wrong ]; then echo ENOENT >&2; exit 1; fi'
check_refused "nbd+unix:///wrong?socket=$d/base.sock" '.'
check_refused "nbds+unix:///?socket=$d/base.sock" '.'
stop_nbdkit base

# A socket that the user may not use.
if [ "$(id -u)" -eq 0 ] && command -v setpriv >/dev/null; then
    start_nbdkit -n base memory 1M
    chmod 600 $d/base.sock
    chmod 755 $d
    nobody=$(id -u nobody)
    fails 1 "$d/x.qed: .*Permission denied" \
          setpriv --reuid="$nobody" --clear-groups nbdkit -U $d/n.sock \
          qed $d/x.qed backing="nbd+unix:///?socket=$d/base.sock"
    stop_nbdkit base
fi

# An error that the server reports is the client's, too, and not the end of
# the connection.
start_nbdkit -n base --filter=error pattern 1M error-pread=EPERM \
             error-pread-rate=100% error-pread-file=$d/fail
start_nbdkit -n x qed $d/x.qed backing="nbd+unix:///?socket=$d/base.sock"
nbdsh -u "$uri" -c - <<'END'
import os
import qedtest
h.pread(4096, 0)
open(qedtest.TMP + "/fail", "w").close()
qedtest.expect_error("EIO", h.pread, 4096, 0)
qedtest.expect_error("EIO", h.pread, 4096, 0)
# Nor can a part of a cluster be written without the rest of it.
qedtest.expect_error("EIO", h.pwrite, b"x", 65536)
os.unlink(qedtest.TMP + "/fail")
assert h.pread(8, 65536) == bytes([0, 0, 0, 0, 0, 1, 0, 0])
h.pwrite(b"x", 65536)
assert h.pread(8, 65536) == bytes([ord("x"), 0, 0, 0, 0, 1, 0, 0])
END
grep -F "socket=$d/base.sock: read at 0: the server says" $log
absent 'connection .* lost' $log
