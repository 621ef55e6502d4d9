#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Each verb follows an NBD URI in a header, of the image or further down, only
# with --backing-uri.  Then the disk is what it would be on a file, and stays the
# same.

source ./functions.sh nbd libnbd qemu

mkdir $d/dir
cd $d/dir
head -c 3M /dev/urandom >base.raw
head -c 2M /dev/urandom >other.raw
start_nbdkit -r file base.raw
base=$uri

# make BELOW: middle.qed on base.raw or the export, and x.qed on that.
make ()
{
    rm -f middle.qed x.qed
    qed-img create -q -u -b "$1" -F raw middle.qed 4M
    qemu-io -f qed -c 'write -P 1 100k 300k' -c 'write -z 1M 128k' middle.qed
    qed-img create -q -u -b middle.qed -F qed x.qed 4M
    qemu-io -f qed -c 'write -P 2 300k 200k' -c 'write -P 3 3900k 100k' x.qed
}
make base.raw
qemu-img convert -f qed -O raw x.qed want.raw
make "$base"

# same IMAGE [OPTION...]: its disk is the same.
same ()
{
    qed-img convert --backing-uri "${@:2}" $1 got.raw
    cmp want.raw got.raw
    rm got.raw
}

chain_refused "^qed-img: middle.qed: backing file: nbd.*: an NBD URI is not followed from an image's header: if that is wanted add --backing-uri: qed-img rebase -u" x.qed
chain_refused ': --backing-format=qcow2: what an NBD server exports is read as' \
              middle.qed --backing-uri --backing-format=qcow2
for args in '' '-b base.raw'; do
    fails 1 'NBD URI is not followed.* add --backing-uri' \
          qed-img commit $args x.qed
done

# Reading it.
qed-img info --backing-uri --backing-chain x.qed >info
grep -e ^image: -e '^file format' -e '^virtual' -e '^disk size: u' info >got
diff got - <<END
image: x.qed
file format: qed
virtual size: 4 MiB (4194304 bytes)
image: middle.qed
file format: qed
virtual size: 4 MiB (4194304 bytes)
image: $base
file format: raw
virtual size: 3 MiB (3145728 bytes)
disk size: unavailable
END
"$PYTHON" - "$base" <<'END'
import json, sys
import qedtest
def output(*args):
    return json.loads(qedtest.qed_img(*args, "--output=json",
                                      "--backing-uri", "x.qed")[0])
got = output("info", "--backing-chain")
want = json.loads(qedtest.run("qemu-img", "info", "--output=json",
                              "--backing-chain", "x.qed"))
for i in got:
    i.pop("format-specific", None)
for i in want:
    for key in "filename", "full-backing-filename":
        if i.get(key, "").startswith("nbd"): # QEMU writes it in its own way
            i[key] = sys.argv[1]
assert got == want, (got, want)

below = [e for e in output("map") if e["depth"] == 2]
assert {e["data"] for e in below} == {True}, below
# Of 48 clusters 7 have data further up, and 2 are zero clusters there.
assert sum(e["length"] for e in below) == 39 << 16, below
END
same x.qed

# A commit onto what is on the server, which can't be written itself.
ends 0 qed-img commit --backing-uri x.qed
same x.qed
same middle.qed
for args in middle.qed "-b $base x.qed"; do
    fails 1 'middle.qed: backing file: nbd.*: is neither raw nor QED: only suc' \
          qed-img commit --backing-uri $args
done
same x.qed

# To another backing file and back.
make "$base"
ends 0 qed-img rebase --backing-uri -b other.raw -F raw x.qed
qemu-img compare -f raw -F qed want.raw x.qed
ends 0 qed-img rebase -b "$base" x.qed
qed-img info x.qed >info
grep -x -e "backing file: $base" info
grep -x -e 'backing file format: raw' info
same x.qed --backing-format=auto
ends 0 qed-img rebase --backing-uri -b middle.qed -F qed x.qed
same x.qed
fails 1 ': -F qcow2: what an NBD server exports is read as raw' \
      qed-img rebase --backing-uri -b "$base" -F qcow2 x.qed
ends 0 qed-img resize --backing-uri x.qed 5M
truncate -s 5M want.raw
same x.qed

# A new image.  Its backing file is named by the user; what is below that isn't,
# and is worth a warning.
ends 0 qed-img create -b "$base" new.qed
grep "size=3145728 backing_file=$base backing_fmt=raw " $d/ends.out
qed-img convert --backing-uri new.qed got.raw
cmp got.raw base.raw
fails 1 ': -F qed: what an NBD server exports is read as raw' \
      qed-img create -b "$base" -F qed new2.qed
fails 0 'warning: middle.qed: .* add --backing-uri' \
      qed-img create -b middle.qed new2.qed
ends 0 qed-img create --backing-uri -b middle.qed new2.qed

# A header can't name key files.
qed-img rebase -u -b "$base&tls-psk-file=/dev/null" -F raw new.qed
fails 1 'new.qed: .*a URI may have no parameter but socket' \
      qed-img map --backing-uri new.qed
