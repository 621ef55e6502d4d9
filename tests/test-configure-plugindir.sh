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
requires_program pkg-config
if [ -n "$NBDKIT_VALGRIND" ]; then skip "configure knows no valgrind"; fi

# With --prefix the plugin still goes where nbdkit looks for it.  If that is
# somewhere else configure says so, and how to change it.
cd $d
mkdir lib
cp -R "$abs_top_srcdir/configure" "$abs_top_srcdir/build-aux" .
chmod -R u+w .                          # distcheck's source is read-only
cp "$abs_top_srcdir/lib/qed.h" lib/
run_configure ()
{
    # Nothing is made, so no more of the source is needed.
    if ! ./configure --no-create --cache-file=cache "$@" >out 2>&1; then
        tail out
        fail "configure $*"
    fi
    tail -n 7 out
}
plugindir=$(pkg-config --variable=plugindir nbdkit)

run_configure --prefix=$d/x
grep -x "configure: plugin directory: $plugindir" out
grep -F "the plugin directory is nbdkit's own, outside of the prefix $d/x." out
grep -F -e "With --with-plugindir=$d/x/lib/nbdkit/plugins the plugin" out

# Not if it is told where, or nothing, or is inside.
run_configure --prefix=$d/x --with-plugindir=$d/x/lib/nbdkit/plugins
grep -x "configure: plugin directory: $d/x/lib/nbdkit/plugins" out
absent 'outside of the prefix' out
run_configure
absent 'outside of the prefix' out
run_configure --prefix="${plugindir%/*/*}"
absent 'outside of the prefix' out
# A name that starts in the same way is another directory.
run_configure --prefix="${plugindir%?}"
grep -F 'outside of the prefix' out
