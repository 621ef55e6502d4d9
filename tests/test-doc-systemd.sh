#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# systemd accepts the man page's units, and the server starts with the socket
# that systemd passes.

source ./functions.sh systemd-analyze systemd-socket-activate nbdcopy nbdinfo

cd $d
man=plugin/nbdkit-qed-plugin.pod
doc_block $man 'qed-disk.socket>:' >qed-disk.socket
doc_block $man 'qed-disk.service>:' >qed-disk.service
program=$(sed -n 's/^ExecStart=\([^ ]*\) .*/\1/p' qed-disk.service)
test "$program" = /usr/bin/nbdkit
# nbdkit may be elsewhere here.
sed "s|$program|$(command -v true)|" -i qed-disk.service
systemd-analyze verify --man=no ./qed-disk.socket ./qed-disk.service 2>&1 |
    tee verify.out
absent 'qed-disk' verify.out
# The tool reports an error that is there.
sed -i.bak 's/SocketMode/SocketMod/' qed-disk.socket
systemd-analyze verify --man=no ./qed-disk.socket 2>&1 |
    grep "Unknown key.*SocketMod'"

qed-img create -q disk.qed 3M
echo 'from a service' >disk.raw
truncate -s 3M disk.raw
nbdkit -U - qed disk.qed --run 'nbdcopy disk.raw "$uri"'
read -r -a words <<<"$(doc_block $man 'qed-disk.service>:' |
                       sed -n "s|^ExecStart=[^ ]* ||p")"
words=("${words[@]//\/var\/lib\/images/$d}")
sock=$d/s.sock
systemd-socket-activate -E NBDKIT_VALGRIND -E LD_PRELOAD -E ASAN_OPTIONS \
    -l $sock "$(command -v nbdkit)" "${words[@]}" 2>activate.log </dev/null &
pid=$!
cleanup_fn wait
cleanup_fn kill $pid
wait_for 60 test -S $sock
for i in 1 2; do
    nbdcopy "nbd+unix:///?socket=$sock" got.raw
    cmp disk.raw got.raw
done
nbdinfo --is read-only "nbd+unix:///?socket=$sock"
