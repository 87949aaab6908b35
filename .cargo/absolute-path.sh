# Sourced by the scripts beside it: an empty or a relative entry of PATH would run what lies in the current folder.
old_ifs=$IFS
IFS=:
set -f
clean=
for entry in ${PATH:-}; do
    case $entry in
    /*) clean=${clean:+$clean:}$entry ;;
    esac
done
set +f
IFS=$old_ifs
PATH=$clean
