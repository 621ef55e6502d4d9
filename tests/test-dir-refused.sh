#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# With dir= a client gets nothing but the images in the directory: not the
# default export, no other name, and no link out of it, even one that is swapped
# while it is opened.

source ./functions.sh nbd nbdinfo

cd $d
mkdir -p dir/sub outside
qed-img create outside/x.qed 1M
cd dir
for i in 1 2 3 4 5; do qed-img create $i.qed 1M; done
qed-img create sub/s.qed 1M
ln -s ../outside/x.qed out
ln -s /dev/null null
ln -s ../../$(basename $d)/outside out-dir
ln -s sub sub-link
mkfifo fifo
truncate -s 1M raw
cp 1.qed cut.qed
truncate -s 30 cut.qed
cd ..
start_nbdkit qed dir=dir
# refuses NAME REGEX
refuses ()
{
    : >$log
    if timeout 60 "$PYTHON" - "$sock" "$1" <<'END'
import sys
import nbd
h = nbd.NBD()
h.set_export_name(sys.argv[2])
h.connect_unix(sys.argv[1])
END
    then
        fail "export '$1' was served"
    fi
    grep -E -e "error: $2" $log || fail "no message matches $2"
}
refuses '' "dir=$d/dir: there is no default export.*nbdinfo --list.*: 1.qed, 2.qed, 3.qed, and more$"
for n in . .. /1.qed ../outside/x.qed sub/s.qed ./1.qed $d/dir/1.qed out-dir/x.qed; do
    refuses $n "dir=$d/dir: export '$n': must be the name of an image in the directory, without '/'"
done
refuses out "dir=$d/dir: export 'out': is the file $d/outside/x.qed, which is not beneath that directory"
refuses null "$d/dir/null: is a character device: an image must be"
refuses sub "$d/dir/sub: is a directory: an image must be"
refuses sub-link "$d/dir/sub-link: is a directory"
refuses fifo "$d/dir/fifo: is a FIFO"
refuses nosuch "$d/dir/nosuch: open: No such file"
refuses raw "$d/dir/raw: .*QED"
refuses cut.qed "$d/dir/cut.qed: "
refuses $'\e[2J' "$d/dir/\?\[2J: open: No such file"
refuses "$(printf 'x%.0s' {1..300})" ".*File name too long"
# A name like the directory's with something behind it is not beneath it.
mkdir dir2
cp outside/x.qed dir2
ln -s ../dir2/x.qed dir/out2
refuses out2 ".*is the file $d/dir2/x.qed, which is not beneath"
stop_nbdkit

# A link that is swapped all the time leads to one image or is refused.
"$PYTHON" - <<'END'
import os, threading
import nbd, qedimg, qedtest
os.chdir(qedtest.TMP)
for path, b in ("dir/1.qed", b"in"), ("outside/x.qed", b"OUT"):
    img = qedimg.Image(1 << 20)
    img.data(0, b * 1000)
    img.save(path)
os.symlink("1.qed", "dir/swapped")
stop = False
def swap():
    i = 0
    while not stop:
        os.symlink(("1.qed", "../outside/x.qed")[i % 2], "dir/new")
        os.rename("dir/new", "dir/swapped")
        i += 1
t = threading.Thread(target=swap)
t.start()
opened = 0
try:
    with qedtest.Server("-r", "qed", "dir=dir") as s:
        for _ in range(300):
            h = nbd.NBD()
            try:
                h.connect_uri(s.uri.replace("///", "///swapped"))
            except nbd.Error:
                continue
            assert h.pread(2, 0) == b"in"
            opened += 1
            h.shutdown()
finally:
    stop = True
    t.join()
print(opened)
END
