#!/bin/bash
# interpreters.sh DIR: stripped CPythons of other Debian suites, unpacked into DIR/pyNNN without installing anything.
# They run on the C library of their own suite where the machine's may be too old, so they run on any Debian or Ubuntu.
# What is there already is left alone; DIR can be deleted at any time. About 40 s and 250 MB.
set -euo pipefail

usage="usage: interpreters.sh DIR"
mkdir -p "${1:?$usage}"
dir=$(cd "$1" && pwd)
multiarch=$(uname -m)-linux-gnu
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
got=0

say() { echo "interpreters: $*"; }

# The Debian mirror this machine uses, by apt's own reading of its sources (.list and .sources alike).
mirror() {
	apt-get indextargets --format '$(CREATED_BY) $(ORIGIN) $(LABEL) $(COMPONENT) $(REPO_URI)' |
		awk '$1 == "Packages" && $2 == "Debian" && $3 == "Debian" && $4 == "main" { print $5; exit }'
}

# apt_of SUITE ARGUMENT...: apt-get with a root of its own for that suite, its signatures checked as always.
apt_of() {
	local root=$dir/apt/$1
	shift
	apt-get -q -o Dir::Etc::sourcelist="$root/suite.sources" -o Dir::Etc::sourceparts=/dev/null \
		-o Dir::State::lists="$root/lists" -o Dir::Cache="$root/cache" -o APT::Sandbox::User=root "$@"
}

# Fetches the suite's index once per run.
open_suite() {
	local suite=$1 root=$dir/apt/$1
	[ ! -e "$root/opened.$$" ] || return 0
	mkdir -p "$root"/lists/partial "$root"/cache/archives/partial
	printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n' "$uri" "$suite" "$keyring" \
		>"$root/suite.sources"
	apt_of "$suite" update >/dev/null 2>"$root/error" || return 1
	touch "$root/opened.$$"
}

# The environment an unpacked interpreter of DIR/NAME needs: its own standard library.
runs() { PYTHONHOME=$1/usr "$1/usr/bin/python$2" -c 'import ctypes, hashlib, json, socket, ssl, threading, zlib' 2>/dev/null; }

# interpreter NAME VERSION SUITE own|machine PACKAGE...: own = run on the C library among PACKAGE.
interpreter() {
	local name=$1 version=$2 suite=$3 libc=$4 home=$dir/$1 fresh=$dir/$1.new libs loader
	shift 4
	if [ -e "$home/.complete" ] && runs "$home" "$version"; then
		say "$version is there: $home"
		got=$((got + 1))
		return
	fi
	if ! open_suite "$suite"; then
		say "$version NOT FETCHED: no index of $suite: $(tail -1 "$dir/apt/$suite/error")"
		return
	fi
	rm -rf "$fresh" "$home"
	mkdir -p "$fresh/.debs"
	set -- "python$version-minimal" "libpython$version-minimal" "libpython$version-stdlib" "$@"
	if ! (cd "$fresh/.debs" && apt_of "$suite" download "$@" >/dev/null 2>"$fresh/error"); then
		say "$version NOT FETCHED: $suite does not carry it any more: $(head -1 "$fresh/error")"
		return
	fi
	for deb in "$fresh"/.debs/*.deb; do dpkg-deb -x "$deb" "$fresh"; done
	rm -rf "$fresh/.debs"
	mv "$fresh" "$home"
	# DT_RPATH, not RUNPATH: it holds for the libraries of extension modules as well.
	libs=$home/usr/lib/$multiarch:$home/lib/$multiarch
	patchelf --force-rpath --set-rpath "$libs" "$home/usr/bin/python$version"
	if [ "$libc" = own ]; then
		loader=$(ls "$home/usr/lib/$multiarch"/ld-linux-*.so.* | head -1)
		patchelf --set-interpreter "$loader" "$home/usr/bin/python$version"
	fi
	if ! runs "$home" "$version"; then
		say "$version NOT USABLE: $(PYTHONHOME=$home/usr "$home/usr/bin/python$version" -c 'import ctypes, hashlib, ssl' 2>&1 | tail -1)"
		return
	fi
	touch "$home/.complete"
	say "$version fetched from $suite: $home"
	got=$((got + 1))
}

for tool in apt-get dpkg-deb patchelf; do
	command -v "$tool" >/dev/null || { say "$tool is missing (Debian or Ubuntu with: make deps)" >&2; exit 1; }
done
uri=${PYLOW_DEBIAN_MIRROR:-$(mirror)}
if [ -z "$uri" ]; then
	# The names of a repository come from its index; a fresh machine has none yet.
	apt-get -q update >/dev/null
	uri=$(mirror)
fi
if [ -z "$uri" ] || [ ! -e "$keyring" ]; then
	say "no Debian mirror among apt's sources, or no debian-archive-keyring: set PYLOW_DEBIAN_MIRROR, install the keyring" >&2
	exit 1
fi

libraries="libc6 libexpat1 libffi8 zlib1g libssl3t64 libbz2-1.0 liblzma5 libncursesw6 libreadline8t64 libsqlite3-0
	libstdc++6 libtinfo6 libuuid1 libzstd1 libgcc-s1"
# shellcheck disable=SC2086 # lists of package names
{
	interpreter py39 3.9 bullseye machine libffi7 libssl1.1
	interpreter py313 3.13 trixie own $libraries
	interpreter py314 3.14 sid own $libraries
	interpreter py315 3.15 sid own $libraries
}
rm -f "$dir"/apt/*/opened.$$
[ "$got" -gt 0 ] || { say "none could be had" >&2; exit 1; }
