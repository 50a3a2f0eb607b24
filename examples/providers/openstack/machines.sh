#!/bin/sh
# Machines for the provider `command` from an OpenStack cloud: machines.sh create|list|terminate [ID...].
#
# Needs the command line client (python3-openstackclient) and the usual OS_* variables, or OS_CLOUD.
# Settings, as environment variables of the orchestrator:
#   MACHINE_IMAGE    image with job-orchestrator installed (needed)
#   MACHINE_FLAVOR   flavor (needed)
#   MACHINE_NETWORK  network, by name or id (needed)
# The orchestrator sets ORCHESTRATOR_…: see README.md here.
set -eu

# Whose a machine is, and which, is in its name alone: orchestrator-NAME-SERVICE-TOKEN. One request tells all.
prefix="orchestrator-$ORCHESTRATOR_NAME-"

# servers PATTERN. The client writes warnings to its standard error; what it prints to its standard output is the
# answer alone.
servers() {
    openstack server list --format value --column ID --column Status --column Name --sort-column ID --name "$1"
}

case "${1:-}" in
create)
    # The same token again is the same machine. The cloud does not see to that, so look first.
    found=$(servers "^$prefix.*-$ORCHESTRATOR_TOKEN\$")
    if [ -n "$found" ]; then
        echo "${found%% *}"
        exit
    fi
    start=$(mktemp)
    trap 'rm -f "$start"' EXIT
    # The token lets one node join, once. It is all that a machine is given.
    cat >"$start" <<END
#!/bin/sh
exec orchestrator node --host 0.0.0.0 --data /var/lib/orchestrator-node --slots $ORCHESTRATOR_SLOTS \\
    --join '$ORCHESTRATOR_JOIN_URL' --join-services '$ORCHESTRATOR_SERVICE' --machine '$ORCHESTRATOR_TOKEN'
END
    openstack server create --format value --column id \
        --image "$MACHINE_IMAGE" --flavor "$MACHINE_FLAVOR" --network "$MACHINE_NETWORK" \
        --user-data "$start" "$prefix$ORCHESTRATOR_SERVICE-$ORCHESTRATOR_TOKEN"
    ;;
list)
    # In a variable first: a loop at the end of a pipe would hide that the cloud did not answer.
    found=$(servers "^$prefix")
    [ -n "$found" ] || exit 0
    echo "$found" | while read -r id status name; do
        case "$status" in
        DELETED | SOFT_DELETED) ;;
        *)
            # Whose it is comes from the machine itself: what the cloud's filter lets through proves nothing.
            name=${name#orchestrator-} owner=${name%%-*} name=${name#*-}
            echo "$id ${name##*-} ${name%-*} $owner"
            ;;
        esac
    done
    ;;
terminate)
    shift
    # What the cloud does not know any more is ended already.
    known=$(servers "^$prefix")
    for id in "$@"; do
        case "$known" in
        *"$id"*) openstack server delete --wait "$id" ;;
        esac
    done
    ;;
*)
    echo "usage: $0 create|list|terminate [ID...]" >&2
    exit 2
    ;;
esac
