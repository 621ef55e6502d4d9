#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# With --prefix the plugin still goes where nbdkit looks for it.  If that
# directory is outside of the prefix, configure says so and names the option
# that changes it.

source ./functions.sh pkg-config
if [ -n "$NBDKIT_VALGRIND" ]; then skip "configure knows no valgrind"; fi

cd $d
mkdir lib
cp -R "$abs_top_srcdir/configure" "$abs_top_srcdir/build-aux" .
chmod -R u+w .                          # distcheck's source is read-only
cp "$abs_top_srcdir/lib/qed.h" lib/
run_configure ()
{
    # configure creates no files, so it needs no more of the source.
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

# configure says nothing of this with --with-plugindir, without --prefix, or if
# the directory is inside the prefix.
run_configure --prefix=$d/x --with-plugindir=$d/x/lib/nbdkit/plugins
grep -x "configure: plugin directory: $d/x/lib/nbdkit/plugins" out
absent 'outside of the prefix' out
run_configure
absent 'outside of the prefix' out
run_configure --prefix="${plugindir%/*/*}"
absent 'outside of the prefix' out
# A prefix is compared by whole names of directories.
run_configure --prefix="${plugindir%?}"
grep -F 'outside of the prefix' out
