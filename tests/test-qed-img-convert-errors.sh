#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# What convert and measure refuse, and what they say.  A failure leaves no file,
# and a file that was there as it was.

source ./functions.sh nbd qemu

cd $d
head -c 3M /dev/urandom >a.raw
qed-img convert -O qed a.raw a.qed
qemu-img create -q -f qcow2 a.qcow2 1M
gzip -k a.raw

c='^qed-img: convert: '
for verb in convert measure; do
    fails 1 "^qed-img: $verb: -f: format 'qcow2': must be raw or qed: qemu-nbd" \
          qed-img $verb -f qcow2 a.qcow2 x
    fails 1 "^qed-img: $verb: -O: format 'qcow2': must be raw or qed; this" \
          qed-img $verb -O qcow2 a.qed x
    fails 1 "^qed-img: $verb: -o: option 'x' is unknown" \
          qed-img $verb -O qed -o x=1 a.qed x
done
fails 1 "${c}expected the names of a source and a target" qed-img convert a.qed
fails 1 "${c}expected the names of a source and a target" \
      qed-img convert a.qed b.raw c.raw
for m in 0 17 x ''; do
    fails 1 "${c}-m: '$m': must be 1 to 16" qed-img convert -m "$m" a.qed x
done
fails 1 "${c}-m: '-18446744073709551615': must be 1 to 16" \
      qed-img convert -m -18446744073709551615 a.qed x
ln -s nowhere dangling
fails 1 '^qed-img: dangling: create: the name is a dangling symbolic link' \
      qed-img convert a.qed dangling
for s in 1 513 16777728 x -1; do
    fails 1 "${c}-S: '$s': must be a multiple of 512 up to 16M, or 0" \
          qed-img convert -S $s a.qed x
done
fails 1 "${c}-: only a raw disk can be written to standard output" \
      qed-img convert -O qed a.raw -
fails 1 "${c}-o: a raw disk has no such option: add -O qed" \
      qed-img convert -o cluster_size=4k a.qed x
fails 1 "${c}-o: size=1M: a converted disk keeps its size" \
      qed-img convert -O qed -o size=1M a.qed x
fails 1 '^qed-img: x: header: cluster_size 4097: must be a power of 2' \
      qed-img convert -O qed -o cluster_size=4097 a.raw x
fails 1 '^qed-img: a.qcow2: has the magic of format qcow2: -f raw says' \
      qed-img convert a.qcow2 x
fails 1 '^qed-img: a.raw.gz: has the magic of format gzip: ' \
      qed-img convert a.raw.gz x
fails 1 '^qed-img: a.raw: header: magic .*: this is not a QED image' \
      qed-img convert -f qed a.raw x
fails 1 '^qed-img: nowhere: .*No such file' qed-img convert nowhere x
fails 1 '^qed-img: nowhere/x: .*No such file' qed-img convert a.qed nowhere/x
fails 1 "^qed-img: '': create: the name is empty" qed-img convert a.qed ''
fails 1 '^qed-img: /dev/null: is a character device' \
      qed-img convert a.qed /dev/null
fails 1 '^qed-img: \.: is a directory' qed-img convert a.qed .
truncate -s 1T huge.raw
fails 1 '^qed-img: x: image_size 1099511627776: must be at most' \
      qed-img convert -O qed -o cluster_size=4k,table_size=1 huge.raw x
fails 1 '^qed-img: huge.raw: image_size 1099511627776: must be at most' \
      qed-img measure -O qed -o cluster_size=4k,table_size=1 huge.raw
for args in '' 'a b' '--size=1M a'; do
    fails 1 '^qed-img: measure: expected either one file name or --size' \
          qed-img measure $args
done
fails 1 "^qed-img: --size: size 'x': is not a size" qed-img measure --size=x
fails 1 '^qed-img: measure: -o: a raw disk has no such option: add -O qed' \
      qed-img measure -o cluster_size=4k a.qed
test ! -e x

# An image that is open for writing, and -U
start_nbdkit qed a.qed
nbdsh -u "$uri" -c 'h.pwrite(h.pread(1, 0), 0)'
fails 1 '^qed-img: a.qed: locked: .*or add -U to read it anyway' \
      qed-img convert a.qed x
qed-img convert -U a.qed x
cmp a.raw x
qed-img measure -U a.qed
# It is no target.
fails 1 '^qed-img: a.qed: locked: ' qed-img convert -O qed a.raw a.qed
fails 1 '^qed-img: a.qed: locked: ' qed-img convert -n -O qed a.raw a.qed
stop_nbdkit
rm x

# A limit on the length of files stands for any error.
limited ()
(
    ulimit -f 100
    "$abs_top_builddir/tools/qed-img" "$@"
)
for f in new old; do
    for o in raw qed; do
        if [ $f = old ]; then echo old >$f; fi
        ls -A >before
        fails 1 "^qed-img: $f: .*File too large" \
              limited convert -O $o a.raw $f
        ls -A | diff before -
    done
done
test "$(cat old)" = old

# Options of QEMU's that need nothing
qed-img convert -q -t none -T writeback -C -W a.qed x
cmp a.raw x
fails 1 "${c}-t: cache mode 'x': must be" qed-img convert -t x a.qed y

fails 1 '^qed-img: measure: -o backing_fmt: format .vmdk.: must be raw or qed' \
      qed-img measure -O qed -o backing_file=a.raw,backing_fmt=vmdk a.qed
fails 1 "^qed-img: measure: -o: backing_file='': the name must not be empty" \
      qed-img measure -O qed -o backing_file= a.qed

# Standard output that can't be written
fails 1 '^qed-img: standard output: write at [0-9]+: No space left' \
      eval 'qed-img convert a.qed - >/dev/full'

# The filesystem is full.
if [ "$(id -u)" -eq 0 ] && mkdir small &&
   mount -t tmpfs -o size=2M none small; then
    cleanup_fn umount $d/small
    for o in raw qed; do
        fails 1 '^qed-img: small/x: .*No space left' \
              qed-img convert -O $o a.raw small/x
        test "$(ls -A small)" = ""
    done
fi

# Progress, on a terminal only
qed-img convert -p a.qed x >out
test ! -s out
"$PYTHON" - <<'END'
import qedtest
status, out = qedtest.on_terminal("convert", "-p", "a.qed", "x")
assert status == 0 and out.endswith("    (100.00/100%)\r\r\n"), (status, out)
status, out = qedtest.on_terminal("convert", "-p", "-q", "a.qed", "x")
assert status == 0 and out == "", out
END
