#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 nbdkit-qed authors
# SPDX-License-Identifier: BSD-3-Clause

# bash completes all that qed-img --help lists.  After "nbdkit qed" it
# completes the parameters and their values, and leaves the rest to nbdkit's
# own completion.

source ./functions.sh

for lib in "$(pkg-config --variable=datadir bash-completion)" /usr/share; do
    lib+=/bash-completion/bash_completion
    if [ -r "$lib" ]; then break; fi
done
if [ ! -r "$lib" ]; then missing "bash-completion is not installed"; fi

cd $d
mkdir dir
touch disk.qed disk.raw
cat >try.sh <<'END'
source "$1"
source "$2/qed-img"
source "$2/nbdkit-qed"
# compopt works only inside readline, so record its arguments.
compopt () { compopt+=" $*"; }

# complete LINE: print the completions that bash would offer.
complete_line ()
{
    local words=${1//=/ = } function compopt=
    read -r -a COMP_WORDS <<<"$words"
    if [[ $1 = *' ' ]]; then COMP_WORDS+=(''); fi
    COMP_LINE=$1
    COMP_POINT=${#1}
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    COMPREPLY=()
    function=$(complete -p "${COMP_WORDS[0]##*/}")
    function=${function##*-F }
    ${function%% *} "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]}" \
        "${COMP_WORDS[COMP_CWORD - 1]}"
    printf '%s\n' "${COMPREPLY[@]}" | sort | paste -s -d ' '
    if [[ $compopt = *nospace* ]]; then echo nospace; fi
}
complete_line "$3"
END

# completes LINE WANTED [nospace]
completes ()
{
    bash try.sh "$lib" "$abs_top_srcdir/completion" "$1" >got 2>err
    test ! -s err || fail "$(cat err)"
    printf '%s\n' "$2" ${3+"$3"} | cmp - got ||
        fail "'$1' becomes '$(cat got)' where '$2 ${3-}' was expected"
}

verbs=$(qed-img --help | sed -n 's/^  qed-img \([a-z]*\) .*/\1/p' | sort)
completes 'qed-img ' "--help --version $(echo $verbs)"
completes 'qed-img cr' 'create'
completes 'qed-img --v' '--version'
completes 'qed-img check --outp' '--output=' nospace
completes 'qed-img check --output=' 'human json'
completes 'qed-img check --output=j' 'json'
completes 'qed-img check --output j' 'json'
completes 'qed-img check -r ' 'all leaks'
completes 'qed-img check --repair=l' 'leaks'
completes 'qed-img check -p d' 'dir disk.qed disk.raw'
completes 'qed-img create -b disk.' 'disk.qed disk.raw'
completes 'qed-img create -F q' 'qcow qcow2 qed'
completes 'qed-img map --backing-format=r' 'raw'
completes 'qed-img info --backing-format=a' 'auto'
completes 'qed-img rebase -F a' ''
completes 'qed-img create -f ' 'qed'
completes 'qed-img create -o clu' 'cluster_size=' nospace
completes 'qed-img rebase --backing-dir=d' 'dir'
completes 'qed-img rebase -T ' \
          'directsync none off unsafe writeback writethrough'
completes 'qed-img commit -b disk.' 'disk.qed disk.raw'
completes 'qed-img commit -t w' 'writeback writethrough'
completes 'qed-img resize --preallocation=' 'off'
completes 'qed-img compare -F ' 'qed raw'
completes 'qed-img compare disk.qed d' 'dir disk.qed disk.raw'
completes 'qed-img frobnicate -' ''
for v in $verbs; do
    # The completions of a dash are exactly the options in the help.
    qed-img $v --help >help
    bash try.sh "$lib" "$abs_top_srcdir/completion" "qed-img $v -" >got 2>err
    test ! -s err
    for o in $(sed '/^nospace/d' got); do
        grep -E -e "^( |.*[[ ,|])${o%=}([], =]|\$)" help || test $o = --help
    done
    for o in $(sed -n 's/^  \(-.*\)/\1/p' help | sed 's/  .*//' |
                   grep -o -E -e '(^|[ ,])--?[a-zA-Z][-a-z]*'); do
        grep -F -e "$o" got
    done
done

completes 'nbdkit qed back' \
          'backing-dir= backing-format= backing-uri= backing=' nospace
completes 'nbdkit -r qed disk.qed backing-f' 'backing-format=' nospace
completes 'nbdkit qed disk.' 'disk.qed disk.raw'
completes 'nbdkit qed file=disk.' 'disk.qed disk.raw'
completes 'nbdkit qed dir=' 'dir'
completes 'nbdkit qed command=qed-im' 'qed-img'
completes 'nbdkit qed command=nbdkit arg=disk.' 'disk.qed disk.raw'
completes 'nbdkit qed disk.qed backing=d' 'dir disk.qed disk.raw'
completes 'nbdkit qed disk.qed backing=n' 'none'
completes 'nbdkit qed disk.qed backing-dir=' 'dir'
completes 'nbdkit qed disk.qed backing-format=' 'auto qed raw'
completes 'nbdkit qed disk.qed check=' 'auto never'
completes 'nbdkit qed disk.qed copy' 'copy-on-read=' nospace
completes 'nbdkit qed disk.qed copy-on-read=' 'false true'
completes 'nbdkit qed disk.qed lock=f' 'false'
completes 'nbdkit qed disk.qed sal' 'salvage=' nospace
completes 'nbdkit qed disk.qed salvage=' 'false true'
completes 'nbdkit qed disk.qed str' 'stream-rate= stream=' nospace
completes 'nbdkit qed disk.qed stream=t' 'true'
completes 'nbdkit qed disk.qed stream-rate=' ''
completes './nbdkit -U - qed disk.qed backing-uri=' 'false true'
# The parameters are those that the plugin has.
params=$(nbdkit qed --help | sed -n '/^plugin:/,$p' |
             grep -o -E '^\[?[a-z-]+=' | tr -d '[' | sort)
completes 'nbdkit qed ' "$(echo $params)" nospace

# nbdkit's own completion, where it is installed.
if [ -r "${lib%/*}/completions/nbdkit" ]; then
    completes 'nbdkit --filter=parti' 'partition'
    completes 'nbdkit --read-o' '--read-only'
    completes 'nbdkit memory si' 'size='
fi
