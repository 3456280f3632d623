# What the scripts that need a Docker engine have in common, over support.bash. Without an engine it ends them, and says so.
#
#   KIELINK_BUILD_ARGS    more options for `docker build` (default: --network host)
#   KIELINK_KEEP_IMAGE    the name under which the image is built and left, for the next script to try
#   KIELINK_TEST_IMAGE    an image to try instead of building one
# shellcheck shell=bash disable=SC2034,SC2317,SC2329  # variables and functions for whoever sources this

if ! docker info >/dev/null 2>&1; then
    echo "$0: skipped, as no Docker engine answers (docker info)."
    exit 0
fi
. tests/support.bash

# BuildKit, which clients before Docker 23 have in them and do not take by themselves. Later ones take it where they have it as a
# component (buildx), and fail where they are told to and have not.
client=$(docker version -f '{{.Client.Version}}' 2>/dev/null || true)
if docker buildx version >/dev/null 2>&1 || [ "${client%%.*}" -lt 23 ] 2>/dev/null; then
    export DOCKER_BUILDKIT=${DOCKER_BUILDKIT:-1}
else
    unset DOCKER_BUILDKIT
fi

readonly KEY=canary-key-of-tests-container
readonly SUNRISE=https://tempfile.aiquickdraw.com/s/sunrise.png
readonly RUN=kielink-test-$$
readonly IMAGE=${KIELINK_TEST_IMAGE:-${KIELINK_KEEP_IMAGE:-$RUN}}
readonly APP_IMAGE=$RUN-app
read -ra build_args <<<"${KIELINK_BUILD_ARGS---network host}"

# build IMAGE FOLDER
build() { docker build ${build_args[@]+"${build_args[@]}"} -t "$1" "$2"; }

# The image to try, unless one is given. Nothing can be tried without.
make_image() {
    [ -z "${KIELINK_TEST_IMAGE:-}" ] || return 0
    if ! build "$IMAGE" . >"$work/build" 2>&1; then
        fail "the image builds" "$(tail -30 "$work/build")"
        end
    fi
    pass "the image builds"
}

remove_images() {
    docker image rm "$APP_IMAGE"
    [ "$IMAGE" != "$RUN" ] || docker image rm "$IMAGE"
}

inspect() { docker inspect -f "$2" "$1"; }
is_healthy() { [ "$(inspect "$1" '{{.State.Health.Status}}')" = healthy ]; }
has_ended() { [ "$(inspect "$1" '{{.State.Status}}')" = exited ]; }
