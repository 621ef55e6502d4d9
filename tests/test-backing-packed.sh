#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# A compressed backing file, or an archive, is not taken for a raw disk unless
# the user or the header says that it is raw.

source ./functions.sh nbd bzip2 gzip tar xz zip zstd nbdcopy

cd $d
head -c 100000 "$plugin" >base.raw
truncate -s 1M base.raw
gzip -c base.raw >base.gzip
bzip2 -c base.raw >base.bzip2
xz -c base.raw >base.xz
zstd -q -c base.raw >base.zstd
zip -q - base.raw >base.zip
tar -cf base.tar base.raw

for format in $(some gzip bzip2 xz zstd zip tar); do
    base=base.$format
    has="$base: has the magic of format $format: unpack it first with"
    rm -f x.qed y.qed
    "$PYTHON" - $base <<'END'
import sys
import qedimg
qedimg.Image(1 << 20, backing=sys.argv[1]).save("x.qed")
qedimg.Image(1 << 20, backing="x.qed").save("y.qed")
qedimg.Image(1 << 20).save("z.qed")
END
    refused "$d/x.qed: backing file: $d/$has .*if it is a raw disk anyway, add backing-format=raw$" \
            qed x.qed
    refused "$d/$has .*if it is a raw disk anyway, add backing-format=raw$" qed x.qed backing=$base
    refused "$d/$has" qed z.qed backing=$base
    # Where the parameter doesn't reach it isn't named.
    refused "$d/x.qed: backing file: $d/$has" qed y.qed
    absent backing-format refused.log
    for verb in map 'commit -q' "rebase -q -b ''" 'info --backing-chain'; do
        fails 1 "x.qed: backing file: $has .* add --backing-format=raw$" eval \
              "qed-img $verb x.qed"
        fails 1 "x.qed: backing file: $has .*rebase -u -b NAME -F raw" eval \
              "qed-img $verb y.qed"
        absent backing-format fails.log
    done
    rm -f new.qed
    fails 1 "$has .* add -F raw$" qed-img create -b $base new.qed
    test ! -e new.qed
    fails 1 "$has .* add -F raw$" qed-img rebase -b $base z.qed
    fails 1 "$has .* add -F raw$" qed-img rebase -u -b $base z.qed

    # The user may still read such a file as raw.
    { cat $base; head -c 1M /dev/zero; } | head -c 1M >want
    nbdkit -r -U - qed x.qed backing-format=raw --run 'nbdcopy "$uri" got'
    cmp want got
    qed-img rebase -u -b $base -F raw x.qed
    nbdkit -r -U - qed x.qed --run 'nbdcopy "$uri" got'
    cmp want got
    qed-img create -q -b $base -F raw new.qed 1M
    nbdkit -r -U - qed new.qed --run 'nbdcopy "$uri" got'
    cmp want got
done
