#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The man page's NOTES, and its list of what is left out, say what to do where
# qemu-img has something that qed-img lacks.  Their commands work as they are.
# Each option of qemu-img is an option of qed-img, or they name it.

source ./functions.sh nbd qemu nbdcopy

pod="$abs_top_srcdir/tools/qed-img.pod"
sed -n -e '/^This is different from qemu-img/,/^=head1/p' \
    -e '/^=head1 OPTIONS OF QEMU-IMG/,/^=head1 VERSION/p' $pod >$d/notes
cd $d

# try REGEX: run the commands of the notes from the first that matches on, up
# to the next line of text.
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
qed-img convert -O qed disk.raw disk.qed
try 'nbdkit.*offset='
cmp part disk.raw 0 1M

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

# A packed file.
if ! command -v xz || ! nbdkit qed --dump-plugin | grep -x qed_libnbd=yes; then
    exit 0
fi
requires_filter xz
xz disk.qed
try 'nbdkit.*disk.qed.xz'
grep -x 'virtual size: 3 MiB (3146240 bytes)' try.out
