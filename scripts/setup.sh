#!/usr/bin/env bash
# Everything a fresh clone needs: .venv with the pinned dependencies, and an OpenGL that renders off screen.
# Returns at once when that is done; delete .venv to start anew. PYTHON=/path/to/python3.11 chooses another Python.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/.done
state="$PWD $(cat pyproject.toml constraints.txt scripts/setup.sh | cksum)"
[ "$(cat "$stamp" 2>/dev/null)" = "$state" ] && exit 0

die() { printf 'setup: %s\n' "$@" >&2; exit 1; }

apt_install() { # install Debian packages when that needs no password, else say what to type
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo -n"
    if command -v apt-get >/dev/null && $sudo true 2>/dev/null; then
        echo "setup: installing $*"
        $sudo apt-get update -q && $sudo env DEBIAN_FRONTEND=noninteractive \
            apt-get install -q -y --no-install-recommends "$@" && return
    fi
    die "please install these system packages, then run this again:" "    sudo apt-get install -y $*"
}

find_python() { # the first Python that is new enough; a pyenv shim may exist and still not run
    local name
    for name in ${PYTHON:-python3.11 python3.12 python3.13 python3.14 python3 python}; do
        "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$name" && return
    done
    return 1
}

renders() { # whether MuJoCo can open an off-screen OpenGL context through EGL or OSMesa
    local gl
    for gl in egl osmesa; do
        MUJOCO_GL=$gl .venv/bin/python -c 'import mujoco; mujoco.GLContext(8, 8).make_current()' \
            >/dev/null 2>&1 && return
    done
    return 1
}

python=$(find_python) || die "no Python 3.11 or newer found; install one, or say where it is: PYTHON=/path/to/python3 make setup"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    apt_install "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"

quiet=""; [ -t 1 ] || quiet="-q"
echo "setup: installing the pinned dependencies into .venv ($("$python" --version); a few minutes the first time)"
"$python" -m venv .venv
.venv/bin/python -m pip install $quiet --no-compile -c constraints.txt setuptools
.venv/bin/python -m pip install $quiet --no-compile -c constraints.txt --no-build-isolation -e '.[dev]'

if [ "$(uname)" = Linux ] && ! renders; then
    apt_install libegl1 libegl-mesa0 libgl1-mesa-dri libosmesa6
    renders || die "MuJoCo still cannot render off screen, neither with MUJOCO_GL=egl nor with MUJOCO_GL=osmesa"
fi
echo "$state" >"$stamp"
