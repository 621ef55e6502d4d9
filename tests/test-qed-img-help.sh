#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# Each verb has a --help that lists the options it accepts.  The man page
# describes each of them in the section of the verb.

source ./functions.sh

pod="$abs_top_srcdir/tools/qed-img.pod"
qed-img --help >$d/help
verbs=$(sed -n 's/^  qed-img \([a-z]*\) .*/\1/p' $d/help)
test "$(echo $verbs)" = "create info check map resize rebase commit convert \
measure compare"

for v in $verbs; do
    qed-img $v --help >$d/$v
    head -n 1 $d/$v | sed 's/^Usage:/ /' | cmp - <(grep "qed-img $v " $d/help)
    qed-img $v -h | cmp - $d/$v
    qed-img $v nothing --help some | cmp - $d/$v
    if [ "$(awk 'NR > 1 && length > 79' $d/$v | wc -l)" -gt 0 ]; then
        fail "$v: the help has too long lines"
    fi
    # Lines such as "  -r, --repair=leaks|all    what it does".
    sed -n 's/^  \(-.*\)/\1/p' $d/$v | sed 's/  .*//' | tr ', ' '\n\n' |
        grep -o -E -e '^--?[a-zA-Z][-a-z]*' | sort >$d/$v.options
    test -s $d/$v.options
    # The options in the usage line are in the list, too.
    head -n 1 $d/$v | grep -o -E -e '[ []--?[a-zA-Z][-a-z]*' |
        tr -d ' [' >$d/synopsis || :
    for o in $(cat $d/synopsis); do
        grep -x -F -e "$o" $d/$v.options
    done
done

for v in $verbs; do
    awk -v head="=head2 qed-img $v" '
        /^=head/ { inside = ($0 == head) } inside' $pod >$d/section
    test -s $d/section || fail "qed-img.pod has no section about $v"
    grep -E "^ \\\$ .*qed-img $v " $pod ||
        fail "qed-img.pod has no example of $v"
    for o in $(cat $d/$v.options); do
        grep -F -e "B<$o" $d/section ||
            fail "qed-img.pod doesn't describe $v $o"
    done
    # The verb accepts exactly the options in its help.
    listed=" $(paste -s -d ' ' $d/$v.options) "
    set +x
    for o in $({ printf -- '-%s\n' {a..g} {i..z}; cat $d/*.options; } |
                   sort -u); do
        # The begin of a long option is that option.
        if [[ $o = --* && $listed != *" $o "* && $listed = *" $o"* ]]; then
            continue
        fi
        qed-img $v $o >$d/out 2>$d/err </dev/null && fail "$v $o: status 0"
        if [[ $(<$d/err) = *'is unknown or takes no value'* ||
              $(<$d/err) = *' is left out: '* ]]; then
            [[ $listed != *" $o "* ]] || fail "$v: there is no $o"
        else
            [[ $listed = *" $o "* ]] || fail "$v: $o isn't in its help"
        fi
    done
    set -x
done
