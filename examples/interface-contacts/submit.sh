#!/usr/bin/env bash
# Submit this example and fetch its result: submit.sh [ORCHESTRATOR] [DIRECTORY FOR THE RESULT]
# The service is `example` unless SERVICE says otherwise, the user 1 unless USER_ID does. ORCHESTRATOR_TOKEN_FILE names a
# file with the header that says who asks, as the server leaves one in its data directory.
set -euo pipefail

server=${1:-http://127.0.0.1:5000}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
token=${ORCHESTRATOR_TOKEN_FILE:+$(realpath "$ORCHESTRATOR_TOKEN_FILE")}
ask() { curl -sS ${token:+-H "@$token"} "$@"; }
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

cd "$here"
answer=$(ask --fail-with-body \
    -F file=@run.sh -F file=@contacts.py -F file=@helix_A.pdb -F file=@helix_B.pdb \
    -F "user_id=${USER_ID:-1}" -F "service=${SERVICE:-example}" "$server/upload") || {
    echo "submit.sh: $server did not take the job: ${answer:-no answer}" >&2
    exit 1
}
id=$(field id <<<"$answer")
echo "job $id submitted"

# The server answers the moment the job ends, or after 30 s with the state it is in.
while :; do
    job=$(ask --fail-with-body "$server/v1/jobs/$id?wait=30&until=ended")
    status=$(field status <<<"$job")
    echo "job $id is $status"
    case $status in
    Completed) break ;;
    Failed | Invalid | Killed | Cleaned)
        echo "submit.sh: $job" >&2
        exit 1
        ;;
    esac
done

cd "$OLDPWD"
result=${2:-interface-contacts-$id}
mkdir -p "$result"
ask --fail -o "$result/result.zip" "$server/download/$id"
python3 -m zipfile -e "$result/result.zip" "$result"
echo "unzipped into $result; the first of $(($(wc -l <"$result/contacts.tsv") - 1)) contacts:"
head -n 6 "$result/contacts.tsv"
