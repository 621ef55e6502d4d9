#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# The commands of README and man page that serve an image and stop the server
# can be repeated.

source ./functions.sh nbdinfo nbdcopy

cd $d
ln -s "$abs_top_builddir/nbdkit" nbdkit
qed-img create -q disk.qed 5M
cleanup_fn tidy
tidy ()
{
    if [ -s qed.pid ]; then kill $(cat qed.pid); fi
}

# again SERVE STOP URI
again ()
{
    local i uri
    for i in 1 2; do
        eval "${1//\/tmp\//$d/}"
        wait_for 60 test -s qed.pid
        pid=$(cat qed.pid)
        uri=${3//\/tmp\//$d/}
        nbdinfo --size "$uri" | grep -x 5242880
        nbdinfo --is read-only "$uri"
        if [ $i -eq 2 ]; then
            fails 1 'Address already in use' \
                  timeout 60 bash -c "${1//\/tmp\//$d/}"
        fi
        eval "${2//\/tmp\//$d/}"
        wait_for 60 gone $pid
    done
}

# The other line of that block is for TCP.
again "$(doc_block README 'Serve an image in the background' | sed -n 1p)" \
      "$(doc_block README 'Stop the')" \
      "$(doc_block README 'Clients find it' | sed -n 1p)"
man=plugin/nbdkit-qed-plugin.pod
again "$(doc_block $man '=item Serve an image')" \
      "$(doc_block $man '=item Stop the server')" \
      "$(doc_block $man 'find the disk as' |
         sed -n "s/^nbdinfo '\(.*\)'/\1/p")"
