#!/bin/sh
# enter.sh ROOT PROGRAM [ARGUMENT ...]: runs a program of the Debian suite in ROOT. The suite gives /usr, /var and /etc; every
# other folder is this machine's, at its own path: the checkout, /tmp, the home. So is what reaches the network.
# The mounts lie in a namespace of this process and end with it. Each step replaces the one before: the program has the process
# id that the caller knows, and gets its signals.
set -eu
if [ "$1" != --inside ]; then
  exec unshare --mount "$0" --inside "$@"
fi
root=$2
shift 2
for folder in /*; do
  case $folder in
    /bin | /boot | /etc | /lib* | /lost+found | /sbin | /usr | /var) continue ;;
  esac
  [ -d "$folder" ] || continue
  mkdir -p "$root$folder"
  mount --rbind "$folder" "$root$folder"
done
for path in /etc/hosts /etc/resolv.conf /etc/pip.conf /etc/ssl/certs; do
  [ -e "$path" ] || continue
  if [ -d "$path" ]; then
    mkdir -p "$root$path"
  else
    mkdir -p "$root${path%/*}"
    [ -e "$root$path" ] || : > "$root$path"
  fi
  mount --bind "$path" "$root$path"
done
exec chroot "$root" /usr/bin/env --chdir="$PWD" -- "$@"
