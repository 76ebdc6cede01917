# Sourced by the scripts beside it: finds a Python and builds a virtual environment, once.

# build_environment DIR EXTRAS: make DIR hold voicepool with EXTRAS in the versions of
# constraints.txt. Does nothing if it is there already; repairs an install that was cut off; two
# runs at once take turns. $root is the repository.
build_environment() {
    venv=$1
    python=$(find_python) || exit 2
    stamp=$(printf '%s\n' "$2" "$("$python" -V)" "$root" | cat - "$root/setup.cfg" \
        "$root/pyproject.toml" "$root/constraints.txt" | cksum)
    # The lock belongs to the open file, so it holds in this shell after the Python that took it.
    exec 9> "$venv.lock"
    "$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)' 2> /dev/null || {
        say "waiting for another install in $venv"
        "$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
    }
    if [ "$(cat "$venv/voicepool-stamp" 2> /dev/null)" != "$stamp" ]; then
        install_environment "$2"
        printf '%s\n' "$stamp" > "$venv/voicepool-stamp"
    fi
    exec 9>&-
}

install_environment() {
    say "installing voicepool[$1] into $venv with $("$python" -V); this takes a minute or two"
    # What an interrupted or older install has left behind is not worth trusting.
    rm -f "$venv/voicepool-stamp"
    "$python" -m venv --clear "$venv"
    done=$({ {
        "$venv/bin/python" -m pip install --disable-pip-version-check --no-input \
            --prefer-binary --constraint "$root/constraints.txt" --editable "$root[$1]" 2>&1 \
            && echo yes >&3 || :
    } | show_progress "$venv/install.log" >&2; } 3>&1)
    [ "$done" = yes ] || {
        tail -n 20 "$venv/install.log" >&2
        say "the install failed: see above, or $venv/install.log; run this again to try again"
        exit 1
    }
}

# show_progress LOG: keep the lines of pip in LOG, and print what each is about: in place on a
# terminal, a line each elsewhere.
show_progress() {
    before='  ' after='\n' end=''
    [ ! -t 1 ] || { before='\r\033[K  ' after='' end='\r\033[K'; }
    : > "$1"
    while IFS= read -r line; do
        printf '%s\n' "$line" >> "$1"
        case $line in
            'Collecting '*) line=${line#* } step="fetching ${line%%[!A-Za-z0-9_.-]*}" ;;
            'Installing collected packages:'*) step=unpacking ;;
            *) continue ;;
        esac
        # shellcheck disable=SC2059 # the format is made of the constants above
        printf "$before%s$after" "$step"
    done
    printf "$end"
}

# find_python: print the first Python that fits; $PYTHON, where it is set, is the only candidate.
find_python() {
    for candidate in ${PYTHON:-python3.12 python3.11 python3}; do
        # Running it is the only proof: a version manager's shim exists and fails.
        if "$candidate" -c '
import sys, ensurepip, venv
sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' > /dev/null 2>&1; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    say "needs Python 3.11 or 3.12 with venv (Debian: apt install python3-venv);" \
        "none of these is one: ${PYTHON:-python3.12, python3.11, python3}. PYTHON=/path/to/python names another."
    return 1
}

say() {
    printf 'voicepool: %s\n' "$*" >&2
}
