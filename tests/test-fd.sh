#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# With fd= the image is a file that nbdkit has inherited: whatever has become of
# its name, in the foreground and in the background.  A descriptor for reading
# doesn't let clients write.  Without permission to open the file, nbdkit uses
# the descriptor itself.  A file without a path has no directory for backing
# files.

source ./functions.sh nbd nbdinfo nbdcopy

cd $d
qed-img create x.qed 4M
write () { nbdsh -u "$uri" -c "h.pwrite(b'$1' * 65536, $2)" -c 'h.flush()'; }
reads () { nbdsh -u "$uri" -c "assert h.pread(65536, $2) == b'$1' * 65536"; }
is_readonly () { nbdinfo --json "$uri" | grep '"is_read_only": true'; }

# For reading and writing: that changes the file, with the locks of a writer.
exec {fd}<>x.qed
start_nbdkit qed fd=$fd
write a 0
refused "$d/x.qed: .*locked|in use|another process" qed x.qed
exec {fd}>&-
write b 1048576
stop_nbdkit
absent 'error' $log
qed-img check x.qed
test "$(od -An -tu1 -j16 -N1 x.qed)" -eq 0

# For reading only, though the file may be written.
exec {fd}<x.qed
state_of x.qed >before
start_nbdkit -v qed fd=$fd
is_readonly
reads b 1048576
stop_nbdkit
grep "debug: .*$d/x.qed: the descriptor isn't open for writing: the export is read-only" \
     $log
state_of x.qed >after
cmp before after
exec {fd}<&-

# In the background, and the file is renamed meanwhile.
exec {fd}<>x.qed
nbdkit -U $d/bg.sock -P $d/bg.pid qed fd=$fd
pid=$(cat bg.pid)
cleanup_fn eval "kill $pid || :"
exec {fd}>&-
mv x.qed y.qed
uri="nbd+unix:///?socket=$d/bg.sock"
write c 2097152
reads a 0
kill $pid
wait_for 30 gone $pid
qed-img check y.qed
start_nbdkit qed y.qed
reads c 2097152
stop_nbdkit

# Deleted.  Its name is that of the parameter.
qed-img create base 4M
qed-img create -b base -F raw overlay.qed
exec {fd}<>y.qed {ov}<overlay.qed
rm y.qed overlay.qed
start_nbdkit -v qed fd=$fd
write d 65536
reads d 65536
stop_nbdkit
refused "fd=$ov: backing file: base: is relative to the directory of the image, and a file without a path has none: backing=NAME" \
        qed fd=$ov
start_nbdkit -r qed fd=$ov backing=base
nbdcopy "$uri" null:
stop_nbdkit
exec {fd}>&- {ov}<&-

# Opened by another user.
if [ "$(id -u)" -ne 0 ]; then exit 0; fi
requires_program setpriv
if ! setpriv --reuid 65534 --clear-groups test -x "$abs_top_builddir/nbdkit"
then
    exit 0
fi
mkdir private sock
chmod 777 sock
chmod 755 .
qed-img create private/x.qed 4M
chmod 700 private
chmod 600 private/x.qed
as_nobody ()
{
    rm -f sock/s
    setpriv --reuid 65534 --clear-groups timeout 60 "$abs_top_builddir/nbdkit" \
            -v -U $d/sock/s qed fd=9 --run "$1" 2>err
}
mode='nbdsh -u "$uri" -c "import threading
def work(n):
    g = nbd.NBD()
    g.connect_uri(\"$uri\")
    for i in range(20):
        g.pwrite(b\"e\" * 4096, n * 262144 + i * 4096)
        g.flush()
threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
for t in threads: t.start()
for t in threads: t.join()
assert h.pread(4096, 262144) == b\"e\" * 4096"'
mode="${mode/nbdsh/$PYTHON -m nbd}"
as_nobody "$mode" 9<>private/x.qed
absent ' error: ' err
qed-img check private/x.qed
start_nbdkit qed private/x.qed
nbdsh -u "$uri" -c 'assert h.pread(81920, 7 * 262144) == b"e" * 81920'
stop_nbdkit
as_nobody 'nbdinfo --json "$uri"' 9<private/x.qed | grep '"is_read_only": true'

# With O_APPEND writes would go to the end of the file.
state_of private/x.qed >before
"$PYTHON" - "$abs_top_builddir/nbdkit" <<'END'
import os, subprocess, sys
os.unlink("sock/s")
fd = os.open("private/x.qed", os.O_RDWR | os.O_APPEND)
os.dup2(fd, 9)
os.set_inheritable(9, True)
p = subprocess.run(["setpriv", "--reuid", "65534", "--clear-groups",
                    sys.argv[1], "-v", "-U", "sock/s", "qed", "fd=9", "--run",
                    "nbdinfo --json \"$uri\""], pass_fds=(9,),
                   capture_output=True)
assert b'"is_read_only": true' in p.stdout, p
assert b"open for writing: Permission denied" in p.stderr, p
END
state_of private/x.qed >after
cmp before after
