#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Exactly one of the parameters that say where the image is must be given.  What
# each of them can't be is refused before nbdkit goes into the background.

source ./functions.sh nbdinfo libnbd

cd $d
all='file=, uri=, command=, fd= and dir='
qed-img create x.qed 1M
mkdir dir
refused "no image.*exactly one of $all" qed
refused "no image.*exactly one of $all" qed cache-size=1M
exec {fd}<x.qed
start_nbdkit -n store file $d/x.qed
sources=(file=x.qed uri="$uri" command=true fd="$fd" dir=dir)
for a in "${sources[@]}"; do
    for b in "${sources[@]}"; do
        refused "${b%%=*}=.*: ${a%%=*}= was given already: exactly one of $all" \
                qed "$a" "$b"
    done
done
refused 'file=y.qed: file= was given already' qed x.qed y.qed

# file=: a URI is none.
for u in nbd://localhost nbds://h/x nbd+unix:///?socket=/s; do
    refused "file=$(sed "s/[+?]/\\\\&/g" <<<"$u"): is an NBD URI: add uri= before it" qed "$u"
done
mkdir -p nbd:/
cp x.qed nbd:/y
nbdkit -U - qed ./nbd://y --run 'nbdinfo --size "$uri"' | grep -x 1048576

# uri=
for u in x.qed '' nbd: file:///x nbdx://y ssh://host/x; do
    refused "uri=.*: must begin with nbd://, nbds://, nbd\+unix:// or nbds\+unix://$" \
            qed uri="$u"
done
for u in http://h/x https://h/x; do
    refused "uri=$u: must .*command=nbdkit arg=curl arg=$u$" qed uri=$u
done
refused 'uri=.*: must .*command=nbdkit arg=nbd arg=uri=nbd\+vsock://1/$' \
        qed uri=nbd+vsock://1/
refused "nbd\+unix:///\?socket=s: the name after socket= must begin with '/'" \
        qed uri='nbd+unix:///?socket=s'
refused "nbd\+unix:///\?socket=$d/none: .*No such file" \
        qed uri="nbd+unix:///?socket=$d/none"

# command= and arg=
refused 'arg=x: must come after command=' qed arg=x
refused 'arg=x: must come after command=' qed arg=x command=true
refused 'arg=x: must come after command=' qed x.qed arg=x
refused 'command=nosuch: there is no such program in PATH' qed command=nosuch
refused 'command=./nosuch: No such file' qed command=./nosuch
refused 'command=./x.qed: Permission denied' qed command=./x.qed
refused 'command=./dir: isn.t a program' qed command=./dir
refused 'empty path' qed command=
refused "$(type -P true) x y: the command doesn't serve NBD" \
        qed command=true arg=x arg=y

# fd=
for n in 0 1 2 -1; do
    refused "fd=$n: must be greater than 2" qed fd=$n
done
refused 'fd=77: no such descriptor is open' qed fd=77
refused 'fd: ' qed fd=x
exec {other}<dir
refused 'is a directory: an image must be' qed fd=$other
exec {other}>&-
exec {other}>>x.qed
refused "fd=$other: the descriptor isn't open for reading" qed fd=$other
exec {other}>&-
exec {other}<functions.sh 2>/dev/null || exec {other}<"$testsdir/functions.sh.in"
refused 'functions.sh.*QED' qed fd=$other

# dir=
refused 'nosuch' qed dir=nosuch
refused 'dir=x.qed: must be a directory' qed dir=x.qed
