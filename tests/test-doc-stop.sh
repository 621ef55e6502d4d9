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
requires_program nbdinfo nbdcopy

# The commands of README and man page that serve an image and stop the server
# can be given again and again.
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
