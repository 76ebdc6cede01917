# Runs in namespaces of its own and becomes systemd, process 1 there.
# $1: folder with the units. $2...: folders to give an empty one in place of, FOLDER, or to open for
# everybody with only PATH in it, FOLDER:PATH.
set -eu
units=$1
shift
mount --make-rprivate /
mount -t proc proc /proc
# What systemd would set there counts for the whole machine.
mount --bind /proc/sys /proc/sys
mount -o remount,ro,bind /proc/sys
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /run
# As on a machine, or credentials would not reach the services: they are mounted elsewhere first.
mount --make-shared /run
mkdir /run/units /run/none /run/kept
cp -r "$units/." /run/units/
number=0
for place; do
    folder=${place%%:*}
    if [ "$folder" != "$place" ]; then
        path=${place#*:} number=$((number + 1))
        mkdir "/run/kept/$number"
        mount --rbind "$path" "/run/kept/$number"
        mount -t tmpfs -o mode=755 tmpfs "$folder"
        mkdir -p "$path"
        mount --rbind "/run/kept/$number" "$path"
    else
        mount -t tmpfs -o "mode=$(stat -c %a "$folder")" tmpfs "$folder"
    fi
done
# Units of this machine are none of ours, nor are those that generators make.
export container=voicepool SYSTEMD_UNIT_PATH=/run/units
export SYSTEMD_GENERATOR_PATH=/run/none SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/run/none
exec "$SYSTEMD" --system --log-target=console --show-status=no --unit=test.target < /dev/null
