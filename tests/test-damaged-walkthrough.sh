#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The man page of qed-img leads from a damaged image to its data.  Its very
# commands, run in order, do what it says.

source ./functions.sh nbd nbdcopy perl mke2fs e2fsck filter:ext2

cd $d
mkdir tree
"$PYTHON" - <<'END'
import random
r = random.Random(1)
with open("tree/letter.txt", "wb") as f:
    f.write(b"Dear reader,\n" + r.randbytes(200000))
with open("tree/film", "wb") as f:
    f.write(r.randbytes(1500000))
END
mke2fs -q -t ext4 -d tree good.raw 64M
truncate -s 64M new.raw
qed-img create -q disk.qed 64M
nbdkit -U - qed disk.qed --run 'nbdcopy good.raw "$uri"'
"$PYTHON" - <<'END'
import qedimg
m = qedimg.Model("disk.qed")
cs = m.cluster_size
with open("good.raw", "rb") as f:
    disk = f.read()

def clusters(name):
    """Those that have nothing but the file, which is all in one place."""
    with open("tree/" + name, "rb") as f:
        content = f.read()
    start = disk.index(content)
    return range(-(-start // cs), (start + len(content)) // cs)

def set_entry(cluster, value):
    i, j = divmod(cluster, m.n)
    with open("disk.qed", "r+b") as f:
        f.seek(m._entry(m.header["l1_table_offset"], i) + 8 * j)
        f.write(qedimg.ENTRY.pack(value))

# The machine of the guest has gone down, and more: two clusters of the film
# are lost, and free space of the filesystem is where the letter is.
film, letter = clusters("film"), clusters("letter.txt")
set_entry(film[3], m.file_size + 1000 * cs)
set_entry(film[4], 12345)
free = [r for r in m.runs() if r.kind == qedimg.UNALLOCATED][-1]
set_entry(free.start // cs, m.lookup(letter[0])[1])
with open("disk.qed", "r+b") as f:
    f.truncate(m.file_size + 20 * cs)
    f.seek(16)
    f.write(bytes([qedimg.F_NEED_CHECK]))
END
sha256sum disk.qed >before

# The commands are indented, after "$", or "#" for root, and may go on in the
# lines that follow.
sed -n '/^=head1 A DAMAGED IMAGE/,/^=head1 BACKING/p' \
    "$abs_top_srcdir/tools/qed-img.pod" >section
perl -ne 'if (/^ ([\$#] .*)/ || $on) { print $on ? $_ : "$1\n";
          $on = /\\$/ }' section >commands
test "$(wc -l <commands)" -ge 17

cleanup_fn tidy
tidy ()
{
    if mountpoint -q mnt; then umount mnt; fi
    wait
}

# run WANTED-STATUS COMMAND
run ()
{
    local status=0
    eval "$2" >>out 2>>err </dev/null || status=$?
    if [ $status -ne "$1" ]; then
        cat err >&2
        fail "$2: status $status where $1 was expected"
    fi
}

# Can the test mount?
root=no
if [ "$(id -u)" -eq 0 ] && dev=$(losetup -f --show good.raw); then
    losetup -d "$dev"
    root=yes
fi
command=
while IFS= read -r line; do
    command+=$line$'\n'
    if [[ $line = *'\' ]]; then continue; fi
    # shellcheck disable=SC2016 # they stand so in the man page
    case $command in
        '# '*)
            if [ $root = yes ]; then run 0 "${command:2}"; fi ;;
        '$ nbdkit '*new.raw*)
            run 1 "${command:2}"
            # Its message stands there too, in several lines.
            sed 's/^nbdkit: qed[^ ]* error: [^ ]*//; s/0x[0-9a-f]\+/N/g; s/[0-9]\+/N/g' err |
                grep -F "$(sed -n '/^ nbdkit: qed/,/^$/p' section |
                           paste -s -d ' ' | sed 's/  */ /g; s/ $//
                           s/^ nbdkit: qed[^ ]* error: [^ ]*//
                           s/0x[0-9a-f]\+/N/g; s/[0-9]\+/N/g')" ;;
        '$ qed-img check copy.qed >'*)
            run 2 "${command:2}" ;;
        '$ cat damages.txt'*)
            # The page shows this output, except for the numbers.
            sed -n '/^ \$ cat damages/,/^So /p' section | sed '1d;$d' |
                tr '\n' ' ' | sed 's/  */ /g; s/0x[0-9a-f]\+/N/g; s/[0-9.]\+/N/g' >want
            tr '\n' ' ' <damages.txt | sed 's/  */ /g; s/0x[0-9a-f]\+/N/g; s/[0-9.]\+/N/g' >got
            diff -w want got ;;
        '$ nbdkit '*salvage=*)
            : >err
            run 0 "${command:2}"
            # Its messages stand there too, but for the path and the numbers.
            sed -n '/salvage=true --run/,/^$/p' section | sed 1d |
                paste -s -d ' ' |
                sed 's/  */ /g; s/^ //; s/ $//; s/0x[0-9a-f]\+/N/g; s/[0-9]\+/N/g' >want
            sed "s,$d/,,g; s/0x[0-9a-f]\+/N/g; s/[0-9]\+/N/g" err | paste -s -d ' ' |
                diff want - ;;
        '$ qed-img create '*)
            dd if=/dev/zero of=copy.qed bs=64 count=1 conv=notrunc
            fails 1 "copy.qed.*QED" qed-img check copy.qed
            run 0 "${command:2}" ;;
        '$ '*)
            run 0 "${command:2}" ;;
    esac
    command=
done <commands

# Nothing of it has changed the image.
sha256sum -c before
cmp letter.txt tree/letter.txt
# It's the same disk after the header was lost.
nbdkit -r -U - qed copy.qed --run 'nbdcopy "$uri" again.raw'
cmp disk.raw again.raw
"$PYTHON" - <<'END'
with open("good.raw", "rb") as f, open("disk.raw", "rb") as g:
    good, got = f.read(), g.read()
with open("tree/film", "rb") as f:
    film = f.read()
start = -(-good.index(film) // 65536) * 65536 + 3 * 65536
end = start + 2 * 65536
assert got[:start] == good[:start]
assert got[start:end] == bytes(end - start)
# The rest is there, but for the free space that has a copy of the letter.
rest = [k for k in range(end, len(good), 65536)
        if got[k:k + 65536] != good[k:k + 65536]]
assert len(rest) == 1 and not good[rest[0]:rest[0] + 65536].strip(b"\0"), rest
END
