#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# lib/README lists the files of the library from the lowest layer up, each of
# them once.  No file uses a symbol of a later one.

source ./functions.sh nm

order=$(sed -n '/^# layers begin/,/^# layers end/p' \
            "$abs_top_srcdir/lib/README" | sed '/^#/d; s/^    //; s/   *.*//')
diff <(tr -s ' ' '\n' <<<"$order" | sort) \
     <(cd "$abs_top_srcdir/lib" && printf '%s\n' *.c | sed 's/\.c$//' | sort)

# symbols OPTION...: print FILE SYMBOL for each symbol that a file defines or
# uses.
symbols ()
{
    local f o
    for f in $order; do
        o=$abs_top_builddir/lib/.libs/libqed_la-$f.o
        # They are only compiled if there is libnbd.
        case $f in nbd-*) if [ ! -e $o ]; then continue; fi ;; esac
        nm "$@" $o | sed -n "s/.* \(qed_[a-z0-9_]*\)\$/$f \1/p"
    done
}

set -o pipefail
symbols --defined-only --extern-only >$d/defined
symbols --undefined-only >$d/used
for f in $order; do
    case $f in nbd-*) ;; *) grep -q "^$f " $d/defined ;; esac
done

awk -v order="$(echo $order)" '
    BEGIN     { n = split(order, f); for (i = 1; i <= n; i++) at[f[i]] = i }
    NR == FNR { owner[$2] = $1; next }
    at[owner[$2]] > at[$1] { print $1 ".c uses " $2 " of " owner[$2] ".c" }
' $d/defined $d/used >$d/upward
if [ -s $d/upward ]; then
    cat $d/upward
    fail "a lower layer uses a higher one"
fi
