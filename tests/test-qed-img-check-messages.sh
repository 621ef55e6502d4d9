#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A check says why an image cannot be checked, that it was not closed cleanly or
# what is corrupt, and what is wrong with a command line.  Each has its exit
# code.

source ./functions.sh nbd

"$PYTHON" - <<'END'
import qedimg, qedtest
img = qedimg.Image(1 << 20)
img.save(qedtest.TMP + "/good.qed")
img.header["features"] = qedimg.F_NEED_CHECK
img.save(qedtest.TMP + "/dirty.qed")
img.data(0)
img.entry(1, 77)
img.alloc()
img.save(qedtest.TMP + "/all.qed")
img.header["cluster_size"] = 5
img.save(qedtest.TMP + "/header.qed")
img.header["cluster_size"] = 65536
img.length = 100000
img.save(qedtest.TMP + "/short.qed")
END

cd $d
qed-img check good.qed >out
printf '%s\n' 'No errors were found on the image.' \
       'Image end offset: 327680' | cmp - out
test -z "$(qed-img check -q good.qed 2>&1)"

qed-img check dirty.qed >out
grep '^No errors' out
grep 'was not closed cleanly' out

ends 2 qed-img check all.qed
cat >want <<'END'
Table entries out of range: what they map can't be read: 1
    offset 0x10000, length 0x10000 (64 KiB)

1 errors were found on the image.
Data may be corrupted, or further writes to the image may corrupt it.

1 leaked clusters were found on the image.
This means waste of disk space, but no harm to data.
The image was not closed cleanly: opening it for writing checks it first.
1/16 = 6.25% allocated, 0.00% fragmented, 0.00% compressed clusters
Image end offset: 655360
END
cmp want ends.out
ends 2 qed-img check -q all.qed
test ! -s ends.out

cp all.qed one.qed
qed-img check -r all one.qed >out
cat >want <<'END'
Table entries out of range, cleared: what they mapped is lost: 1
    offset 0x10000, length 0x10000 (64 KiB)

The file had 720896 bytes and has 655360 now.
The image is marked as closed cleanly now.
The following inconsistencies were found and repaired:

    1 leaked clusters
    1 corruptions

Double checking the fixed image now...

No errors were found on the image.
1/16 = 6.25% allocated, 0.00% fragmented, 0.00% compressed clusters
Image end offset: 655360
END
cmp want out
cp all.qed one.qed
test -z "$(qed-img check -q -r all one.qed 2>&1)"
qed-img check one.qed

# Not checked.
for args in '' '-r leaks' '-r all' '--output=json' '-q'; do
    fails 1 '^qed-img: no.qed: .*No such file' qed-img check $args no.qed
    test ! -s fails.out
    fails 1 '^qed-img: .: is a directory' qed-img check $args .
    fails 1 '^qed-img: header.qed: .*cluster_size' \
          qed-img check $args header.qed
    fails 1 '^qed-img: short.qed: .*L1 table' qed-img check $args short.qed
    echo hello >text
    fails 1 '^qed-img: text: .*QED' qed-img check $args text
done

see='see qed-img check --help'
fails 1 "^qed-img: check: expected one file.*$see" qed-img check
fails 1 "^qed-img: check: expected one file.*$see" qed-img check good.qed good.qed
fails 1 "^qed-img: check: -r: 'some'.*leaks or all.*$see" \
      qed-img check -r some good.qed
fails 1 "option '-r' needs a value.*$see" qed-img check -r
fails 1 "^qed-img: check: -f: .*'raw'.*$see" qed-img check -f raw good.qed
fails 1 "^qed-img: check: --output: .*$see" qed-img check --output=x good.qed
for format in human json; do
    if qed-img check --output=$format good.qed >/dev/full 2>err; then
        fail "success on a full device"
    fi
    grep 'No space left' err
done
