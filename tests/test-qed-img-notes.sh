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
requires_qemu
requires_program nbdcopy

# What the man page's NOTES say to do where qemu-img has something that qed-img
# doesn't, word for word; and all options of qemu-img's are either qed-img's, or
# named there.
pod="$abs_top_srcdir/tools/qed-img.pod"
sed -n '/^This is different from qemu-img/,/^=head1/p' $pod >$d/notes
cd $d

# try REGEX: run the commands of the notes from the first that matches on, up to
# the next line of text.
try ()
{
    sed -n "/^ \\\$ .*$1/,/^\$/s/^ \\\$ //p" notes >try.sh
    cat try.sh
    test -s try.sh
    timeout 60 bash -e -o pipefail try.sh >try.out
}
# For these commands qed-img is a program, not a function.
cat >qed-img <<END
#!/bin/bash
exec $QED_IMG "\$@"
END
chmod +x qed-img
PATH=$d:$PATH

"$PYTHON" - <<'END'
import qedimg
with open("disk.raw", "wb") as f:
    f.write(qedimg.pattern("disk", 0, (3 << 20) + 512))
END
try 'qed-img create new.qed'
cmp copy.raw disk.raw
grep -x 'fully allocated size: [1-9][0-9]*' try.out
qed-img create -q changes.qed 1M
try 'qed-img create changes.qed'
qed-img info changes.qed | grep -x 'backing file: later.img'

# qemu-img's own list.
qemu-img --help | sed -n 's/^  \([a-z]*\) \(.*\) *$/\1 \2/p' |
    grep -E '^(amend|bench|bitmap|check|commit|compare|convert|create|dd|info|map|measure|snapshot|rebase|resize) ' \
    >verbs
test $(wc -l <verbs) -ge 15
ours=" $(qed-img --help | sed -n 's/^  qed-img \([a-z]*\) .*/\1/p' |
             paste -s -d ' ') "
while read -r verb rest; do
    if [[ $ours != *" $verb "* ]]; then
        grep -w -e "C<$verb>" notes
        continue
    fi
    qed-img $verb --help >help
    for o in $(grep -o -E -e '(^|[[| (])--?[a-zA-Z][-a-z]*' <<<"$rest" |
                   tr -d '[| ('); do
        grep -q -E -e "(^|[ ,[])$o([ ,=]|\$)" help ||
            grep -e "B<$o>" -e "C<$verb $o>" notes ||
            fail "qemu-img $verb $o isn't qed-img's and not in NOTES"
    done
done <verbs

# A file that is packed.  Where nobody may mount anything the rest was tested.
if [ ! -w /dev/fuse ] || ! command -v nbdfuse fusermount3 xz; then exit 0; fi
requires_filter xz
mv new.qed disk.qed
xz disk.qed
unmount () { if mountpoint -q fuse; then fusermount3 -u fuse; fi; }
cleanup_fn unmount
try 'mkdir fuse' || test ! -s nbdfuse.pid
if [ -s try.out ]; then
    grep -x 'virtual size: 3 MiB (3146240 bytes)' try.out
fi
